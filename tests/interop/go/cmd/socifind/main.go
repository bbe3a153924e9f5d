// Command socifind finds and fetches an image's SOCI index and zTOCs as the SOCI snapshotter does: through the ORAS
// library, with its checks of every answer, into a store that checks digests.
//
//	socifind v1|v2 HOST/REPOSITORY MANIFEST-DIGEST DIRECTORY
//
// v2 follows the image manifest's annotation; v1 takes the first referrer of an image that has no such annotation. The
// index is decoded and encoded again, and the result stored under the index's own digest: the snapshotter keeps it so.
// Content lands in DIRECTORY/blobs; {"index", "layers": [{"layer", "ztoc"}]} is printed.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
)

const (
	typeV1     = "application/vnd.amazon.soci.index.v1+json"
	typeV2     = "application/vnd.amazon.soci.index.v2+json"
	namesIndex = "com.amazon.soci.index-digest"
	namesLayer = "com.amazon.soci.image-layer-digest"
	limit      = 2 * time.Minute
)

type pair struct {
	Layer string `json:"layer"`
	Ztoc  string `json:"ztoc"`
}

type found struct {
	Index  string `json:"index"`
	Layers []pair `json:"layers"`
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: socifind v1|v2 HOST/REPOSITORY MANIFEST-DIGEST DIRECTORY")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	result, err := run(ctx, os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "socifind:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, version, name, image, directory string) (*found, error) {
	repository, err := remote.NewRepository(name)
	if err != nil {
		return nil, err
	}
	repository.PlainHTTP = true
	store, err := oci.NewStorage(directory)
	if err != nil {
		return nil, err
	}
	index, err := discover(ctx, repository, version, image)
	if err != nil {
		return nil, fmt.Errorf("looking for an index: %w", err)
	}
	manifest, err := fetchIndex(ctx, repository, store, index)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", index.Digest, err)
	}
	result := &found{Index: index.Digest.String()}
	for _, ztoc := range manifest.Layers {
		if err := keep(ctx, repository, store, ztoc); err != nil {
			return nil, fmt.Errorf("zTOC %s: %w", ztoc.Digest, err)
		}
		result.Layers = append(result.Layers, pair{ztoc.Annotations[namesLayer], ztoc.Digest.String()})
	}
	return result, nil
}

// discover returns the index's descriptor: with a digest only if the image names it, else as the registry describes it.
func discover(ctx context.Context, from *remote.Repository, version, image string) (ocispec.Descriptor, error) {
	named, err := annotated(ctx, from, image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	switch {
	case version == "v2" && named != "":
		dgst, err := digest.Parse(named)
		return ocispec.Descriptor{Digest: dgst}, err
	case version == "v1" && named == "":
		return referring(ctx, from, image)
	}
	return ocispec.Descriptor{}, fmt.Errorf("the image names %q, which is not as it should be for %s", named, version)
}

func annotated(ctx context.Context, from *remote.Repository, image string) (string, error) {
	_, body, err := from.Manifests().FetchReference(ctx, image)
	if err != nil {
		return "", err
	}
	defer body.Close()
	var manifest ocispec.Manifest
	if err := json.NewDecoder(body).Decode(&manifest); err != nil {
		return "", err
	}
	return manifest.Annotations[namesIndex], nil
}

func referring(ctx context.Context, from *remote.Repository, image string) (ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	subject := ocispec.Descriptor{Digest: digest.Digest(image)}
	err := from.Referrers(ctx, subject, typeV1, func(page []ocispec.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	if err == nil && len(all) == 0 {
		err = errors.New("nothing refers to the image")
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return all[0], nil
}

func fetchIndex(ctx context.Context, from *remote.Repository, to *oci.Storage, index ocispec.Descriptor) (*ocispec.Manifest, error) {
	asked := index
	if asked.Size == 0 {
		var err error
		if asked, err = from.Resolve(ctx, from.Reference.Registry+"/"+from.Reference.Repository+"@"+index.Digest.String()); err != nil {
			return nil, err
		}
	}
	body, err := from.Fetch(ctx, asked)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := content.ReadAll(body, asked)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, err
	}
	if kind := manifest.Config.MediaType; kind != typeV1 && kind != typeV2 {
		return nil, fmt.Errorf("unknown version %q", kind)
	}
	again := ocispec.Manifest{
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      manifest.Config,
		Layers:      manifest.Layers,
		Subject:     manifest.Subject,
		Annotations: manifest.Annotations,
	}
	again.SchemaVersion = 2
	encoded, err := json.Marshal(again)
	if err != nil {
		return nil, err
	}
	return &manifest, pushed(to.Push(ctx, ocispec.Descriptor{Digest: index.Digest, Size: int64(len(data))}, bytes.NewReader(encoded)))
}

func keep(ctx context.Context, from *remote.Repository, to *oci.Storage, wanted ocispec.Descriptor) error {
	body, err := from.Fetch(ctx, wanted)
	if err != nil {
		return err
	}
	defer body.Close()
	return pushed(to.Push(ctx, wanted, body))
}

func pushed(err error) error {
	if errors.Is(err, errdef.ErrAlreadyExists) {
		return nil
	}
	return err
}
