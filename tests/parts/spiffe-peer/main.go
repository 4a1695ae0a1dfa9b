// A peer on go-spiffe: HTTP by mutual TLS, its identity from a Workload API, the other side's checked by go-spiffe.
//
//	spiffe-peer serve -socket S -expect spiffe://...                  prints its port, then says each request back
//	spiffe-peer call  -socket S -expect spiffe://... [-http1] METHOD URL [BODY]     prints the answer as JSON
//
// An answer is {"status", "protocol", "peer", "headers", "body"}, or {"error"} where none came. What `serve` says
// back, as the body, is {"method", "target", "protocol", "peer", "headers", "body"}.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// limit of a wait for an identity, and of a call.
const limit = 20 * time.Second

type message struct {
	Error    string            `json:"error,omitempty"`
	Status   int               `json:"status,omitempty"`
	Method   string            `json:"method,omitempty"`
	Target   string            `json:"target,omitempty"`
	Protocol string            `json:"protocol,omitempty"`
	Peer     string            `json:"peer,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
	Body     string            `json:"body"`
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	if len(os.Args) < 2 {
		log.Fatal("serve or call?")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	socket := flags.String("socket", "", "of the Workload API")
	expect := flags.String("expect", "", "the other side's identity")
	http1 := flags.Bool("http1", false, "no HTTP/2")
	_ = flags.Parse(os.Args[2:])

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	address := workloadapi.WithClientOptions(workloadapi.WithAddr("unix://" + *socket))
	source, err := workloadapi.NewX509Source(ctx, address)
	if err != nil {
		log.Fatal(err)
	}
	other := tlsconfig.AuthorizeID(spiffeid.RequireFromString(*expect))
	switch os.Args[1] {
	case "serve":
		config := tlsconfig.MTLSServerConfig(source, source, other)
		config.NextProtos = protocols(*http1)
		serve(config)
	case "call":
		config := tlsconfig.MTLSClientConfig(source, source, other)
		config.NextProtos = protocols(*http1)
		print(call(config, !*http1, flags.Args()))
	default:
		log.Fatal("serve or call?")
	}
}

func protocols(http1 bool) []string {
	if http1 {
		return []string{"http/1.1"}
	}
	return []string{"h2", "http/1.1"}
}

func serve(config *tls.Config) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	server := &http.Server{TLSConfig: config, Handler: http.HandlerFunc(sayBack)}
	if len(config.NextProtos) == 1 {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	log.Fatal(server.ServeTLS(listener, "", ""))
}

func sayBack(answer http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	said := message{
		Method: request.Method, Target: request.RequestURI, Protocol: request.Proto, Peer: peer(request.TLS),
		Headers: plain(request.Header), Body: string(body),
	}
	said.Headers["host"] = request.Host
	answer.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(answer).Encode(said)
}

func call(config *tls.Config, http2 bool, arguments []string) message {
	body := ""
	if len(arguments) == 3 {
		body = arguments[2]
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, arguments[0], arguments[1], strings.NewReader(body))
	if err != nil {
		return message{Error: err.Error()}
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: http2}}
	answer, err := client.Do(request)
	if err != nil {
		return message{Error: err.Error()}
	}
	defer answer.Body.Close()
	read, err := io.ReadAll(answer.Body)
	if err != nil {
		return message{Error: err.Error()}
	}
	return message{
		Status: answer.StatusCode, Protocol: answer.Proto, Peer: peer(answer.TLS),
		Headers: plain(answer.Header), Body: string(read),
	}
}

// peer is the identity in the other side's certificate, which go-spiffe has verified.
func peer(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ""
	}
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return err.Error()
	}
	return id.String()
}

func plain(headers http.Header) map[string]string {
	all := map[string]string{}
	for name, values := range headers {
		all[strings.ToLower(name)] = strings.Join(values, ",")
	}
	return all
}

func print(said message) {
	_ = json.NewEncoder(os.Stdout).Encode(said)
}
