// Command esgz makes eStargz layers with the reference library, and judges them with it.
//
//	esgz build [-prioritized FILE] [-chunk-size BYTES] [-level N] IN.tar[.gz] OUT
//	esgz verify BLOB [TOC-DIGEST]
//	esgz list BLOB
//
// build prints {"digest", "size", "diff_id", "toc_digest", "uncompressed"}; verify reads every file of the layer
// through the library's reader against the digests in the table of contents and prints their number and bytes; list
// prints what the reader says of every path, the sha-256 of its contents included, as an array by path.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

type built struct {
	Digest       string `json:"digest"`
	Size         int64  `json:"size"`
	DiffID       string `json:"diff_id"`
	TOCDigest    string `json:"toc_digest"`
	Uncompressed int64  `json:"uncompressed"`
	Missed       int    `json:"missed"`
}

type verified struct {
	TOCDigest string `json:"toc_digest"`
	Files     int    `json:"files"`
	Bytes     int64  `json:"bytes"`
}

type listed struct {
	Path    string            `json:"path"`
	Type    string            `json:"type"`
	Size    int64             `json:"size"`
	Digest  string            `json:"digest"`
	Link    string            `json:"link"`
	Links   int               `json:"links"`
	Mode    int64             `json:"mode"`
	UID     int               `json:"uid"`
	GID     int               `json:"gid"`
	User    string            `json:"user"`
	Group   string            `json:"group"`
	ModTime string            `json:"modtime"`
	Major   int               `json:"major"`
	Minor   int               `json:"minor"`
	Xattrs  map[string][]byte `json:"xattrs"`
}

func main() {
	runtime.GOMAXPROCS(2) // the library cuts a layer into one part per processor: the same bytes on every machine
	answer, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "esgz:", err)
		os.Exit(1)
	}
}

func run(args []string) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("say build, verify or list")
	}
	switch args[0] {
	case "build":
		return build(args[1:])
	case "verify":
		return verify(args[1:])
	case "list":
		return list(args[1:])
	default:
		return nil, fmt.Errorf("no such verb: %s", args[0])
	}
}

func build(args []string) (any, error) {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	prioritized := flags.String("prioritized", "", "file with one path per line, first used first")
	chunkSize := flags.Int("chunk-size", 0, "bytes of a file in one gzip member (0: the library's default)")
	level := flags.Int("level", 9, "gzip level")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() != 2 {
		return nil, errors.New("build wants IN and OUT")
	}
	var missed []string
	options := []estargz.Option{estargz.WithCompressionLevel(*level), estargz.WithAllowPrioritizeNotFound(&missed)}
	if *chunkSize > 0 {
		options = append(options, estargz.WithChunkSize(*chunkSize))
	}
	if *prioritized != "" {
		text, err := os.ReadFile(*prioritized)
		if err != nil {
			return nil, err
		}
		options = append(options, estargz.WithPrioritizedFiles(strings.Fields(string(text))))
	}
	in, err := section(flags.Arg(0))
	if err != nil {
		return nil, err
	}
	blob, err := estargz.Build(in, options...)
	if err != nil {
		return nil, err
	}
	out, err := os.Create(flags.Arg(1))
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(out, hash), blob)
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	uncompressed, err := blob.UncompressedSize()
	if err := errors.Join(err, blob.Close()); err != nil {
		return nil, err
	}
	return built{
		Digest:       fmt.Sprintf("sha256:%x", hash.Sum(nil)),
		Size:         size,
		DiffID:       blob.DiffID().String(),
		TOCDigest:    blob.TOCDigest().String(),
		Uncompressed: uncompressed,
		Missed:       len(missed),
	}, nil
}

func verify(args []string) (any, error) {
	if len(args) < 1 || len(args) > 2 {
		return nil, errors.New("verify wants BLOB and perhaps TOC-DIGEST")
	}
	in, err := section(args[0])
	if err != nil {
		return nil, err
	}
	reader, err := estargz.Open(in)
	if err != nil {
		return nil, err
	}
	expected := reader.TOCDigest()
	if len(args) == 2 {
		expected = digest.Digest(args[1])
	}
	verifiers, err := reader.VerifyTOC(expected)
	if err != nil {
		return nil, err
	}
	answer := verified{TOCDigest: reader.TOCDigest().String()}
	root, ok := reader.Lookup("")
	if !ok {
		return nil, errors.New("the layer has no root")
	}
	err = walk(reader, verifiers, root, &answer)
	return answer, err
}

func walk(reader *estargz.Reader, verifiers estargz.TOCEntryVerifier, dir *estargz.TOCEntry, sum *verified) error {
	var failed error
	dir.ForeachChild(func(_ string, entry *estargz.TOCEntry) bool {
		switch entry.Type {
		case "dir":
			failed = walk(reader, verifiers, entry, sum)
		case "reg":
			sum.Files++
			sum.Bytes += entry.Size
			failed = check(reader, verifiers, entry)
		}
		return failed == nil
	})
	return failed
}

func check(reader *estargz.Reader, verifiers estargz.TOCEntryVerifier, file *estargz.TOCEntry) error {
	content, err := reader.OpenFile(file.Name)
	if err != nil {
		return err
	}
	for offset := int64(0); offset < file.Size; {
		chunk, ok := reader.ChunkEntryForOffset(file.Name, offset)
		if !ok {
			return fmt.Errorf("%s: no chunk at %d", file.Name, offset)
		}
		size := chunk.ChunkSize
		if size == 0 {
			size = file.Size - offset
		}
		verifier, err := verifiers.Verifier(chunk)
		if err != nil {
			return err
		}
		// at once: each read of the library inflates from the chunk's beginning
		data := make([]byte, size)
		if _, err := content.ReadAt(data, offset); err != nil {
			return fmt.Errorf("%s: %w", file.Name, err)
		}
		if _, err := verifier.Write(data); err != nil {
			return err
		}
		if !verifier.Verified() {
			return fmt.Errorf("%s: wrong bytes at %d", file.Name, offset)
		}
		offset += size
	}
	return nil
}

func list(args []string) (any, error) {
	if len(args) != 1 {
		return nil, errors.New("list wants BLOB")
	}
	in, err := section(args[0])
	if err != nil {
		return nil, err
	}
	reader, err := estargz.Open(in)
	if err != nil {
		return nil, err
	}
	root, ok := reader.Lookup("")
	if !ok {
		return nil, errors.New("the layer has no root")
	}
	answer := []listed{}
	err = describe(reader, "", root, &answer)
	return answer, err
}

func describe(reader *estargz.Reader, name string, entry *estargz.TOCEntry, sum *[]listed) error {
	told := listed{
		Path: name, Type: entry.Type, Size: entry.Size, Link: entry.LinkName, Links: entry.NumLink, Mode: entry.Mode,
		UID: entry.UID, GID: entry.GID, User: entry.Uname, Group: entry.Gname,
		ModTime: entry.ModTime().UTC().Format(time.RFC3339Nano), Major: entry.DevMajor, Minor: entry.DevMinor,
		Xattrs: entry.Xattrs,
	}
	if entry.Type == "reg" {
		content, err := reader.OpenFile(name)
		if err != nil {
			return err
		}
		data := make([]byte, entry.Size)
		if _, err := content.ReadAt(data, 0); err != nil && entry.Size > 0 {
			return fmt.Errorf("%s: %w", name, err)
		}
		told.Digest = fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	}
	*sum = append(*sum, told)
	var failed error
	entry.ForeachChild(func(base string, child *estargz.TOCEntry) bool {
		failed = describe(reader, path.Join(name, base), child, sum)
		return failed == nil
	})
	return failed
}

func section(path string) (*io.SectionReader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(file, 0, info.Size()), nil
}
