// A SPIFFE Workload API for tests, its X.509 part, on go-spiffe's own protocol stubs. It is not SPIRE.
//
//	workload-api [-trust-domain cluster.local] [-lifetime 1h] [-root FILE.pem] [-federate FILE.pem=TRUSTDOMAIN] SOCKET=PATH ...
//
// Each socket belongs to one workload: who calls there is spiffe://TRUSTDOMAIN/PATH; an empty path is a workload
// that nobody registered (PERMISSION_DENIED). Certificates are replaced at half their lifetime.
//
//	SIGHUP   a new root: trusted beside the old one at once, signing after half a lifetime, alone after two more
//	SIGUSR1  every certificate issued so far is revoked; each workload gets the list, and a new certificate
//	SIGUSR2  the federated bundles are read again; one whose file is gone is handed out no more
//
// Each step says so on stdout, so that a test can wait for it; the first line is `serving`.
package main

import (
	"context"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// api is what one socket serves. All of them share the authority.
type api struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authority *authority
	id        string
	federated *federation
}

// allowed checks what the specification asks of every call.
func (a *api) allowed(ctx context.Context) error {
	fields, _ := metadata.FromIncomingContext(ctx)
	if header := fields.Get("workload.spiffe.io"); len(header) != 1 || header[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	if a.id == "" {
		return status.Error(codes.PermissionDenied, "no identity issued")
	}
	return nil
}

func (a *api) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return a.updates(stream.Context(), func() error {
		certificate, key := a.authority.issue(a.id)
		return stream.Send(&workload.X509SVIDResponse{
			Svids: []*workload.X509SVID{{
				SpiffeId: a.id, X509Svid: certificate, X509SvidKey: key, Bundle: a.authority.bundle(),
			}},
			Crl:              a.authority.revocations(),
			FederatedBundles: a.federated.bundles(),
		})
	})
}

func (a *api) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return a.updates(stream.Context(), func() error {
		bundles := map[string][]byte{"spiffe://" + a.authority.trustDomain: a.authority.bundle()}
		for domain, bundle := range a.federated.bundles() {
			bundles[domain] = bundle
		}
		return stream.Send(&workload.X509BundlesResponse{Crl: a.authority.revocations(), Bundles: bundles})
	})
}

// updates sends at once, at each change of the authority, and at half a lifetime.
func (a *api) updates(ctx context.Context, send func() error) error {
	for {
		if err := a.allowed(ctx); err != nil {
			return err
		}
		changed := a.authority.changes()
		if err := send(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(a.authority.lifetime / 2):
		}
	}
}

// federation is a flag that may come several times: FILE.pem=TRUSTDOMAIN.
type federation struct {
	files map[string]string

	mu   sync.Mutex
	read map[string][]byte
}

func (f *federation) String() string { return "" }

func (f *federation) Set(text string) error {
	file, domain, found := strings.Cut(text, "=")
	if !found {
		return fmt.Errorf("%q is not FILE.pem=TRUSTDOMAIN", text)
	}
	f.files["spiffe://"+domain] = file
	return nil
}

// readAll takes what the files say now.
func (f *federation) readAll() error {
	read := map[string][]byte{}
	for domain, file := range f.files {
		rest, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
			read[domain] = append(read[domain], block.Bytes...)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read = read
	return nil
}

func (f *federation) bundles() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.read
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	federated := &federation{files: map[string]string{}}
	trustDomain := flag.String("trust-domain", "cluster.local", "whose authority this is")
	lifetime := flag.Duration("lifetime", time.Hour, "of a certificate")
	root := flag.String("root", "", "the first root, certificate and key; one of its own without it")
	flag.Var(federated, "federate", "a foreign bundle to hand out: FILE.pem=TRUSTDOMAIN")
	flag.Parse()
	if err := federated.readAll(); err != nil {
		log.Fatal(err)
	}

	authority := newAuthority(*trustDomain, *lifetime, *root)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	go follow(signals, authority, federated)

	var serving sync.WaitGroup
	for _, argument := range flag.Args() {
		socket, path, found := strings.Cut(argument, "=")
		if !found {
			log.Fatalf("%q is not SOCKET=PATH", argument)
		}
		served := &api{authority: authority, federated: federated}
		if path != "" {
			served.id = "spiffe://" + *trustDomain + path
		}
		listener := must(net.Listen("unix", socket))
		server := grpc.NewServer()
		workload.RegisterSpiffeWorkloadAPIServer(server, served)
		serving.Go(func() { log.Fatal(server.Serve(listener)) })
	}
	say("serving")
	serving.Wait()
}

func follow(signals <-chan os.Signal, authority *authority, federated *federation) {
	for received := range signals {
		switch received {
		case syscall.SIGHUP:
			authority.rotate()
		case syscall.SIGUSR1:
			authority.revokeAll()
			say("revoked")
		case syscall.SIGUSR2:
			if err := federated.readAll(); err != nil {
				log.Fatal(err)
			}
			authority.change(func() {})
			say("the federated bundles are read")
		}
	}
}

func say(text string) { fmt.Println(text) }

// must is for what cannot fail here; if it does, the test sees why.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
