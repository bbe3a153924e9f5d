// Command stargzd is the stargz snapshotter daemon: it serves containerd's snapshot API on a Unix socket.
//
// The project's own daemon lives in a module of its own; this one puts the same parts together.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/keychain/dockerconfig"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
)

func main() {
	socket := flag.String("address", "", "Unix socket to listen on")
	root := flag.String("root", "", "directory of the snapshots")
	config := flag.String("config", "", "TOML file")
	flag.Parse()
	if err := run(*socket, *root, *config); err != nil {
		fmt.Fprintln(os.Stderr, "stargzd:", err)
		os.Exit(1)
	}
}

func run(socket, root, configFile string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	text, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	var config service.Config
	if err := toml.Unmarshal(text, &config); err != nil {
		return err
	}
	credentials := dockerconfig.NewDockerconfigKeychain(ctx)
	hosts := resolver.RegistryHostsFromConfig(resolver.Config(config.ResolverConfig), credentials)
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &config, service.WithCustomRegistryHosts(hosts))
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		return err
	}
	return snapshotter.Close()
}
