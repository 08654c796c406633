// The device plugin of the test node: it offers device files of the host under dozlab.io/NAME.
// It is the stand-in for squat/generic-device-plugin, which the chart dozlab-node installs on other clusters.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// A device that is offered, as many times as count: all of them are the same file of the host.
type device struct {
	api.UnimplementedDevicePluginServer
	resource    string
	path        string
	permissions string
	count       int
}

// What squat's plugin calls a device, as far as the chart uses it: one group of one file.
type description struct {
	Name   string
	Groups []struct {
		Count int
		Paths []struct{ Path, Permissions string }
	}
}

func newDevicePluginCommand() *cobra.Command {
	var domain string
	var told []string
	command := &cobra.Command{
		Use:          "device-plugin",
		Short:        "Offer device files to Pods until the process is ended",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			ended := make(chan error)
			for _, text := range told {
				offered, err := parse(domain, text)
				if err != nil {
					return fmt.Errorf("--device %s: %w", text, err)
				}
				go func() { ended <- offered.serve() }()
			}
			return <-ended
		},
	}
	command.Flags().StringVar(&domain, "domain", "dozlab.io", "first part of the resource names")
	command.Flags().StringArrayVar(&told, "device", nil, "a device as JSON, in the words of generic-device-plugin")
	_ = command.MarkFlagRequired("device")
	return command
}

func parse(domain, text string) (*device, error) {
	var read description
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&read); err != nil {
		return nil, err
	}
	if read.Name == "" || len(read.Groups) != 1 || len(read.Groups[0].Paths) != 1 {
		return nil, errors.New("not a name with one group of one path")
	}
	group := read.Groups[0]
	return &device{
		resource: domain + "/" + read.Name, path: group.Paths[0].Path, permissions: group.Paths[0].Permissions, count: group.Count,
	}, nil
}

// serve registers with kubelet, and again whenever kubelet has started anew (it empties the folder of sockets then).
func (d *device) serve() error {
	socket := filepath.Join(api.DevicePluginPath, strings.ReplaceAll(d.resource, "/", "-")+".sock")
	for {
		_ = os.Remove(socket)
		listener, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		server := grpc.NewServer()
		api.RegisterDevicePluginServer(server, d)
		go func() { _ = server.Serve(listener) }()
		for err = d.register(filepath.Base(socket)); err != nil; err = d.register(filepath.Base(socket)) {
			fmt.Fprintf(os.Stderr, "%s: kubelet does not answer yet: %v\n", d.resource, err)
			time.Sleep(500 * time.Millisecond)
		}
		fmt.Fprintf(os.Stderr, "%s: registered, %d times %s\n", d.resource, d.count, d.path)
		for exists(socket) {
			time.Sleep(500 * time.Millisecond)
		}
		server.Stop()
	}
}

func (d *device) register(endpoint string) error {
	connection, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: d.resource}
	_, err = api.NewRegistrationClient(connection).Register(ctx, request)
	return err
}

func (d *device) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch tells of the devices, and again when the file comes or goes.
func (d *device) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	told := ""
	for {
		health := api.Unhealthy
		if exists(d.path) {
			health = api.Healthy
		}
		if health != told {
			list := &api.ListAndWatchResponse{}
			for i := range d.count {
				list.Devices = append(list.Devices, &api.Device{ID: fmt.Sprint(i), Health: health})
			}
			if err := stream.Send(list); err != nil {
				return err
			}
			told = health
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

func (d *device) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for range request.ContainerRequests {
		spec := &api.DeviceSpec{HostPath: d.path, ContainerPath: d.path, Permissions: d.permissions}
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{Devices: []*api.DeviceSpec{spec}})
	}
	return response, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
