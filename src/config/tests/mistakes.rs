//! Mistakes, and what is told of each: all of it, at its place.

use super::told;

macro_rules! mistakes {
    ($($name:ident: $yaml:literal => $told:literal;)*) => {
        $(#[test]
        fn $name() {
            assert_eq!(told($yaml).trim_end(), $told.trim());
        })*
    };
}

mistakes! {
    unknown_key: r#"outbound:
  routes:
    - name: a
      timeouts: { requst: 3s, backendRequest: 5 }
      retries: {}"# => r#"
4:19: outbound.routes[0].timeouts.requst: unknown key `requst` [did you mean `request`?]
4:47: outbound.routes[0].timeouts.backendRequest: `5` has no unit: write it like `5ms` or `5s`
5:7: outbound.routes[0].retries: unknown key `retries` [did you mean `retry`?]
"#;

    two_sources_of_an_identity: r#"identity:
  files: { certificate: a, key: b, roots: c }
  workloadApi: unix:///run/agent.sock"# => r#"
1:1: identity: an identity comes from `files` or from `workloadApi`: say one, not both
"#;

    keys_of_later_versions: r#"relays: []
brokers: {}
upstreams:
  a: { endpoints: { dns: a:1 }, healthCheck: { http: / } }"# => r#"
1:1: relays: unknown key `relays` [known here: version, profile, workers, service, identity, inbound, outbound, upstreams, outbox, telemetry, admin, shutdown, allowUnsafe]
2:1: brokers: unknown key `brokers` [known here: version, profile, workers, service, identity, inbound, outbound, upstreams, outbox, telemetry, admin, shutdown, allowUnsafe]
4:33: upstreams.a.healthCheck: unknown key `healthCheck` [known here: endpoints, listen, addresses, protocol, timeouts, tls, identity, loadBalancing, limits, outlier, panic]
"#;

    missing_keys: r#"outbound:
  routes:
    - hosts: [a]
    - nam: b
upstreams:
  a: {}
  b: { endpoint: { dns: b:1 } }"# => r#"
3:7: outbound.routes[0]: the key `name` is missing
4:7: outbound.routes[1].nam: unknown key `nam` [did you mean `name`?]
6:3: upstreams.a: the key `endpoints` is missing
7:8: upstreams.b.endpoint: unknown key `endpoint` [did you mean `endpoints`?]
"#;

    keys_said_twice: r#"admin: { listen: 127.0.0.1:1 }
upstreams: { a: { endpoints: { dns: a:1 } }, a: { endpoints: { dns: b:1 } } }
admin: { listen: 127.0.0.1:2 }
outbound: { routes: [{ name: a, filters: [{ requestHeaderModifier: { set: { X-A: b, x-a: c } } }] }] }
inbound: { ports: { 80: {}, "80": {} } }"# => r#"
2:46: upstreams.a: `a` is said twice; first in line 2
3:1: admin: `admin` is said twice; first in line 1
4:85: outbound.routes[0].filters[0].requestHeaderModifier.set.x-a: said twice: this key equals one before it
5:29: inbound.ports.80: `80` is said twice; first in line 5
"#;

    wrong_kinds: r#"workers: [1]
inbound: 8080
outbound: { routes: { name: a }, listen: { a: b } }
admin:
  listen: 127.0.0.1
  metrics:"# => r#"
1:1: workers: expected `auto` or a number from 1 to 1024, found a list
2:10: inbound: expected a mapping, found the number 8080
3:13: outbound.routes: expected a list, found a mapping
3:34: outbound.listen: expected an address like `127.0.0.1:8080`, a list of them, or `none`, found a mapping
5:11: admin.listen: `127.0.0.1` is not an IP address and a port, like `127.0.0.1:8080` or `[::1]:8080`
6:3: admin.metrics: expected a text like `127.0.0.1:8080`, found nothing
"#;

    words_of_a_choice: r#"telemetry: { accessLog: off }
outbound: { unknown: Deny }
upstreams:
  a: { endpoints: { dns: a:1 }, loadBalancing: { policy: ringHash }, tls: auto, protocol: http }"# => r#"
1:25: telemetry.accessLog: `off` is not known here [the word for nothing is `none`]
2:22: outbound.unknown: `Deny` is not known here [did you mean `deny`?]
4:58: upstreams.a.loadBalancing.policy: `ringHash` is not known here [known here: peakEwma, leastRequest, roundRobin, random]
4:91: upstreams.a.protocol: `http` is not known here [did you mean `http1`?]
"#;

    times_and_sizes: r#"shutdown: { lameDuck: 5, grace: 5 s }
outbox: { limits: { bytes: 4GB, event: 64, perUpstream: 101, count: -1 } }"# => r#"
1:23: shutdown.lameDuck: `5` has no unit: write it like `5ms` or `5s`
1:33: shutdown.grace: `5 s` is not a time: a whole number and ms, s, m, h or d, like `250ms`
2:28: outbox.limits.bytes: `4GB` is not a size: a whole number and B, KiB, MiB, GiB or TiB, like `64KiB`
2:40: outbox.limits.event: `64` has no unit: write it like `64B` or `64MiB`
2:57: outbox.limits.perUpstream: 101 is not a share: a whole number from 0 to 100
2:69: outbox.limits.count: expected a whole number, found the text `-1`
"#;

    one_of_several: r#"upstreams:
  a: { endpoints: { dns: a:1, static: [] } }
  b: { endpoints: {} }
  c: { endpoints: dns }
  d: { endpoints: [10.0.0.1:80] }"# => r#"
2:8: upstreams.a.endpoints: one key stands here, not 2
3:8: upstreams.b.endpoints: one key is needed here
4:19: upstreams.c.endpoints: this word needs a `:` and a value after it
5:8: upstreams.d.endpoints: expected one of dns, static, found a list
"#;

    fields_that_are_not_a_filters: r#"outbound:
  routes:
    - name: a
      filters:
        - requestHeaderModifier: { set: { Host: x, Transfer-Encoding: y }, remove: [TE, "a b"] }
        - responseHeaderModifier: { add: { x-a: "b\nc", x-b: true } }
        - mirror: {}"# => r#"
5:43: outbound.routes[0].filters[0].requestHeaderModifier.set.Host: `host` cannot be changed here; `urlRewrite: { hostname }` does
5:52: outbound.routes[0].filters[0].requestHeaderModifier.set.Transfer-Encoding: `transfer-encoding` cannot be changed: it frames the message or belongs to one connection
5:85: outbound.routes[0].filters[0].requestHeaderModifier.remove[0]: `te` cannot be changed: it frames the message or belongs to one connection
5:89: outbound.routes[0].filters[0].requestHeaderModifier.remove[1]: `a b` is not the name of a header field
6:49: outbound.routes[0].filters[1].responseHeaderModifier.add.x-a: not the value of a header field: visible ASCII, with spaces inside only
6:62: outbound.routes[0].filters[1].responseHeaderModifier.add.x-b: expected a text like `gold`, found the boolean `true` [quoted it is a text: "true"]
7:11: outbound.routes[0].filters[2].mirror: `mirror` is not known here [known here: requestHeaderModifier, responseHeaderModifier, urlRewrite, requestRedirect]
"#;

    boolean_words: r#"outbound:
  routes:
    - name: no
      matches: [{ method: POST, query: { dry: yes, b: true } }]
      idempotency: { required: yes }
      defer: { key: none }
      backends: [{ upstream: a }]
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
3:13: warning: outbound.routes[0].name: `no` without quotes is a boolean to YAML 1.1 readers [it is read as the text "no"; write the quotes]
4:47: warning: outbound.routes[0].matches[0].query.dry: `yes` without quotes is a boolean to YAML 1.1 readers [it is read as the text "yes"; write the quotes]
4:55: outbound.routes[0].matches[0].query.b: expected a text, or `{ regex: ... }`, found the boolean `true` [quoted it is a text: "true"]
5:32: outbound.routes[0].idempotency.required: expected true or false, found the text `yes` [write true]
"#;

    retries: r#"outbound:
  routes:
    - name: a
      retry: { attempts: 0, conditions: [conect, "999", 99, grpc: [unavailabl], { grpc: [], x: 1 }, { http: [1] }], methods: [get], backoff: { base: 1s } }
    - name: b
      retry: { attempts: 101 }"# => r#"
4:26: outbound.routes[0].retry.attempts: no try at all; 1 is one try and no retry
4:42: outbound.routes[0].retry.conditions[0]: `conect` is not known here [did you mean `connect`?]
4:50: outbound.routes[0].retry.conditions[1]: 999 is not a status: 200 to 599
4:57: outbound.routes[0].retry.conditions[2]: 99 is not a status: 200 to 599
4:68: outbound.routes[0].retry.conditions[3].grpc[0]: `unavailabl` is not known here [did you mean `unavailable`?]
4:93: outbound.routes[0].retry.conditions[4].x: one condition an entry
4:103: outbound.routes[0].retry.conditions[5].http: unknown key `http` [known here: grpc]
4:127: outbound.routes[0].retry.methods[0]: methods are case-sensitive: write `GET`
4:150: outbound.routes[0].retry.backoff.base: from 1s up to 250ms: the bounds are swapped
6:26: outbound.routes[1].retry.attempts: 101 tries; at most 100
"#;

    expressions_and_patterns: r#"outbound:
  routes:
    - name: a
      hosts: [a]
      matches: [{ method: POST, path: { regex: "/a(b" }, headers: { x: { regex: "[" } } }]
      defer: { key: "request.headers[" }
    - name: b
      hosts: [a]
      matches: [{ method: PUT, path: { exact: charge }, query: { a: { regx: b } } }]
      defer: { key: event.id }
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
5:48: outbound.routes[0].matches[0].path.regex: this regular expression does not compile: unclosed group
5:81: outbound.routes[0].matches[0].headers.x.regex: this regular expression does not compile: unclosed character class
6:21: outbound.routes[0].defer.key: this expression does not compile, at character 18: mismatched input '<EOF>'
9:47: outbound.routes[1].matches[0].path.exact: `charge` is not a path: it begins with `/`
9:71: outbound.routes[1].matches[0].query.a.regx: `regx` is not known here [did you mean `regex`?]
10:21: outbound.routes[1].defer.key: `event` is not known in this expression: it is over `request`
"#;

    empty_optional_mappings: r#"outbound:
  routes:
    - name: a
      hosts: [a]
      matches: [{ method: POST }]
      defer:
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
6:7: outbound.routes[0].defer: nothing is said here; write `{}` for the defaults, or leave the key out
"#;

    the_environment: r#"workers: ${NONE}
service:
  name: ${a b}
  trustDomain: "${X""# => r#"
1:10: workers: the environment variable `NONE` is not set
3:9: service.name: `${a b}` is not `${NAME}` or `${NAME:-otherwise}`; a plain `${` is written `$${`
4:16: service.trustDomain: `${` without its `}`; a plain `${` is written `$${`
"#;

    not_yaml: r#"outbound: ["# => r#"
2:1: this is not YAML: while parsing a node, did not find expected node content
"#;

    a_tab: r#"outbound:
	routes: []"# => r#"
2:2: this is not YAML: tabs disallowed within this context (block indentation)
"#;

    a_tag: r#"admin: !local { listen: 127.0.0.1:1 }"# => r#"
1:8: the tag `!local` means nothing here
"#;

    list_as_key: r#"? [a]
: b"# => r#"
1:3: a key is a text, not a list or a mapping
"#;

    second_document: r#"version: weft/v1
---
version: weft/v1"# => r#"
2:1: a second document; one file holds one
"#;

    no_mapping: r#"- a"# => r#"
1:1: expected a mapping, found a list
"#;

    own_alias: r#"outbound: &a { routes: *a }"# => r#"
1:24: an alias of what it stands in
"#;

    merge: r#"x: &x { dns: a:1 }
upstreams: { a: { endpoints: { <<: *x } } }"# => r#"
1:1: x: unknown key `x` [known here: version, profile, workers, service, identity, inbound, outbound, upstreams, outbox, telemetry, admin, shutdown, allowUnsafe]
2:32: upstreams.a.endpoints["<<"]: `<<` is not known here [known here: dns, static]
"#;

    ports_of_others: r#"inbound: { ports: { 0: {}, 70000: {}, x: {}, 9090: { protocol: grpc } }, app: localhost:8080 }"# => r#"
1:21: inbound.ports.0: 0 is not a port of an application
1:28: inbound.ports.70000: expected a whole number from 0 to 65535, found the number 70000
1:39: inbound.ports.x: expected a whole number from 0 to 65535, found the text `x`
1:79: inbound.app: `localhost:8080` is not an IP address and a port, like `127.0.0.1:8080` or `[::1]:8080`
"#;

    names_that_name_nothing: r#"outbound:
  routes:
    - name: a
      hosts: [paymnts, "*.shop"]
    - name: b
      hosts: [shop]
      backends: [{ upstream: payment }, { upstream: payments, weight: 0 }]
    - name: a
      hosts: [payments]
      backends: [{ upstream: payments, weight: 0 }]
upstreams: { payments: { endpoints: { dns: a:1 } } }"# => r#"
4:15: outbound.routes[0].hosts[0]: no upstream is named `paymnts`, and the route has no `backends` [did you mean `payments`?]
7:30: outbound.routes[1].backends[0].upstream: no upstream is named `payment` [did you mean `payments`?]
8:13: outbound.routes[2].name: a second route named `a`; the first is in line 3
10:7: outbound.routes[2].backends: the weights sum to zero: no call could go anywhere
"#;

    a_broken_upstream_is_still_known: r#"outbound: { routes: [{ name: a, hosts: [payments] }] }
upstreams: { payments: { endpoints: { dns: a } } }"# => r#"
2:44: upstreams.payments.endpoints.dns: `a` is not a host and a port, like `payments.shop:8080`
"#;

    what_needs_an_identity_of_ours: r#"inbound:
  tls: { mode: strict }
  ports: { 9: { tls: strict }, 10: { tls: permissive } }
upstreams:
  a: { endpoints: { dns: a:1 }, tls: mesh }
  b: { endpoints: { dns: b:1 }, identity: spiffe://cluster.local/b }
  c: { endpoints: { dns: c:1 }, identity: spiffe://cluster.local/c, tls: none }"# => r#"
2:16: inbound.tls.mode: callers are to prove who they are, and we have no identity to meet them with [say where it comes from: `identity: { files: … }`]
3:22: inbound.ports.9.tls: callers are to prove who they are, and we have no identity to meet them with [say where it comes from: `identity: { files: … }`]
5:38: upstreams.a.tls: mutual TLS needs an identity of ours [say where it comes from: `identity: { files: … }`]
6:43: upstreams.b.identity: its endpoints are to prove an identity, and we have none to show [say where it comes from: `identity: { files: … }`]
7:43: upstreams.c.identity: only mutual TLS asks for an identity: `tls: mesh` or `tls: auto`
"#;

    what_an_identity_comes_from: r#"identity: { cutAtExpiry: true }"# => r#"
1:1: identity: an identity comes from `files` or from `workloadApi`: say one
"#;

    routes_that_never_match: r#"outbound:
  routes:
    - { name: all, hosts: [a] }
    - { name: same, hosts: [a], matches: [{}] }
    - { name: half, hosts: [a], matches: [{ method: PUT }, { path: { prefix: /x } }] }
    - { name: first, hosts: [a], matches: [{ path: { prefix: /x } }] }
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
4:15: outbound.routes[1].name: `same` can never match: `all` (line 3) takes all of its calls
6:15: outbound.routes[3].name: `first` can never match: `half` (line 5) takes all of its calls
"#;

    matches_that_mean_nothing: r#"outbound:
  routes:
    - { name: a, hosts: [a], matches: [{ grpc: {} }, { grpc: { service: s }, path: { exact: / } }] }
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
3:42: outbound.routes[0].matches[0]: `grpc` needs a service, a method or both
3:56: outbound.routes[0].matches[1]: `grpc` says what the path is: leave `path` out
"#;

    what_is_never_deferred: r#"outbound:
  routes:
    - { name: a, hosts: [a], matches: [{ method: GET }, { method: HEAD }, { path: { prefix: /x } }], defer: {} }
    - { name: b, hosts: ["*"], matches: [{ method: POST }], defer: { expiry: 1s, delay: 2s } }
    - { name: c, hosts: [a], idempotency: {}, reply: {} }
upstreams: { a: { endpoints: { dns: a:1 } } }
outbox: { path: "${WEFT_OUTBOX}" }"# => r#"
3:50: outbound.routes[0].matches[0].method: a GET is never deferred: its caller needs the answer
3:67: outbound.routes[0].matches[1].method: a HEAD is never deferred: its caller needs the answer
3:77: warning: outbound.routes[0].matches[2]: takes every method, but GET and HEAD are never deferred; name one
4:26: outbound.routes[1].hosts[0]: `*` names no upstream; a deferred route needs `backends` then
4:78: outbound.routes[1].defer.expiry: every call expires after 1s, before its delay of 2s ends
5:30: outbound.routes[2].idempotency: only a route with `defer` has it
5:47: outbound.routes[2].reply: only a route with `defer` has it
"#;

    an_outbox_that_cannot_be_written: r#"outbound: { routes: [{ name: a, hosts: [a], matches: [{ method: POST }], defer: {} }] }
upstreams: { a: { endpoints: { dns: a:1 } } }
outbox: { path: /dev/null/outbox }"# => r#"
3:17: outbox.path: /dev/null/outbox cannot be made: /dev/null is not a directory
"#;

    an_outbox_that_nothing_needs: r#"outbox: { path: /dev/null/outbox }"# => r#"
"#;

    values_out_of_range: r#"inbound: { timers: { head: 0s, idle: 0s, bodyRate: { over: 0s }, writeStall: 0s } }
outbound:
  routes:
    - { name: a, hosts: [a], timeouts: { request: 1s, backendRequest: 2s }, backends: [{ upstream: a, weight: 1000001 }] }
upstreams: { a: { endpoints: { dns: a:1 }, timeouts: { connect: 0s }, outlier: { penalty: { max: 1ms } } } }
outbox: { limits: { bytes: 1MiB, event: 257MiB, count: 0 } }
workers: 0"# => r#"
1:28: inbound.timers.head: must be longer than 0s
1:38: inbound.timers.idle: must be longer than 0s
1:60: inbound.timers.bodyRate.over: must be longer than 0s
1:78: inbound.timers.writeStall: must be longer than 0s
4:111: outbound.routes[0].backends[0].weight: 1000001 is over 1000000
5:65: upstreams.a.timeouts.connect: must be longer than 0s
5:98: upstreams.a.outlier.penalty.max: from 1s up to 1ms: the bounds are swapped
6:41: outbox.limits.event: 257MiB is over 256MiB: a call is held whole in memory
6:41: outbox.limits.event: one call of 257MiB does not fit in 1MiB
6:56: outbox.limits.count: at 0 no call could be deferred
7:10: workers: 0 is not from 1 to 1024
"#;

    filters_that_contradict: r#"outbound:
  routes:
    - name: a
      hosts: [a]
      matches: [{ path: { exact: /a } }]
      filters: [{ urlRewrite: { path: { replacePrefixMatch: / } } }]
    - name: b
      hosts: [nowhere]
      backends: [{ upstream: a }]
      filters: [{ requestRedirect: { scheme: https, port: 0 } }]
    - name: c
      filters: [{ requestRedirect: { port: 0, statusCode: 200 } }, { requestRedirect: { path: { replaceFullPath: a } } }]
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
6:61: outbound.routes[0].filters[0].urlRewrite.path.replacePrefixMatch: every one of the route's `matches` needs a `path: { prefix }` for this
10:19: outbound.routes[1].filters[0].requestRedirect: a redirect asks no upstream: `backends` and `defer` have no meaning beside it
10:59: outbound.routes[1].filters[0].requestRedirect.port: 0 is not a port to send anyone to
12:59: outbound.routes[2].filters[0].requestRedirect.statusCode: 200 does not redirect: 301, 302, 303, 307 or 308
12:114: outbound.routes[2].filters[1].requestRedirect.path.replaceFullPath: `a` is not a path: it begins with `/`
"#;

    grpc_needs_http2: r#"outbound: { routes: [{ name: a, matches: [{ grpc: { service: s } }], backends: [{ upstream: a }] }] }
upstreams: { a: { endpoints: { dns: a:1 }, protocol: http1 } }"# => r#"
1:93: outbound.routes[0].backends[0].upstream: `a` speaks HTTP/1.1, gRPC needs HTTP/2
"#;

    ports_that_collide: r#"inbound: { listen: ["0.0.0.0:9000", "[::]:9000", 127.0.0.1:9001], ports: { 7: { listen: 127.0.0.1:9000 } } }
outbound: { listen: 127.0.0.1:9001 }
upstreams: { a: { endpoints: { dns: a:1 }, listen: ["127.0.0.2:9001", "[::1]:15020", 127.0.0.1:0] } }
admin: { listen: 127.0.0.1:0 }"# => r#"
1:89: inbound.ports.7.listen: 127.0.0.1:9000 collides with 0.0.0.0:9000 of `inbound.listen` (line 1)
2:21: outbound.listen: 127.0.0.1:9001 collides with 127.0.0.1:9001 of `inbound.listen` (line 1)
3:71: upstreams.a.listen[1]: [::1]:15020 collides with [::]:15020 of `admin.metrics` (the default)
"#;

    a_default_that_collides: r#"outbound: { listen: 127.0.0.1:15000 }"# => r#"
1:21: outbound.listen: 127.0.0.1:15000 collides with 127.0.0.1:15000 of `admin.listen` (the default)
"#;

    targets_that_are_our_own: r#"inbound: { app: 127.0.0.1:15006, ports: { 9: { listen: 0.0.0.0:9 } } }
upstreams: { a: { endpoints: { static: [127.0.0.1:15001, 10.0.0.1:15006, 127.0.0.1:0] } } }"# => r#"
1:17: inbound.app: 127.0.0.1:15006 is our own `inbound.listen`: every call would come back
1:43: inbound.ports.9: 127.0.0.1:9 is our own `inbound.ports.9.listen`: every call would come back
2:41: upstreams.a.endpoints.static[0]: 127.0.0.1:15001 is our own `outbound.listen`: every call would come back
2:74: upstreams.a.endpoints.static[2]: port 0 is no port to call
"#;

    doors_that_stand_open: r#"outbound: { listen: [0.0.0.0:15001, 127.0.0.1:0] }
admin: { listen: 0.0.0.0:15000 }"# => r#"
1:22: outbound.listen[0]: 0.0.0.0:15001 is not loopback: with `unknown: passthrough` it is an open proxy [listen on loopback, set `unknown: deny`, or allow it: `allowUnsafe: [openProxy]`]
2:18: admin.listen: 0.0.0.0:15000 is not loopback: who reaches it commands this sidecar
"#;

    an_open_proxy_that_is_wanted: r#"outbound: { listen: 0.0.0.0:15001 }
allowUnsafe: [openProxy]"# => r#"
"#;

    a_reference_between_braces: r#"service: { name: ${PORT} }"# => r#"
1:19: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}' [between `{ }` or `[ ]`, `${NAME}` stands in quotes: "${NAME}"]
"#;

    deliveries: r#"outbound:
  routes:
    - name: a
      hosts: [a]
      matches: [{ method: POST }]
      defer: { deliver: { attempts: 0, concurrency: 0, timeout: 0s, backoff: { max: 1ms } } }
upstreams: { a: { endpoints: { dns: a:1 } } }
outbox: { path: "${WEFT_OUTBOX}" }"# => r#"
6:37: outbound.routes[0].defer.deliver.attempts: no try at all: every call would be a dead letter
6:53: outbound.routes[0].defer.deliver.concurrency: 0 is not from 1 to 10000
6:65: outbound.routes[0].defer.deliver.timeout: must be longer than 0s
6:85: outbound.routes[0].defer.deliver.backoff.max: from 200ms up to 1ms: the bounds are swapped
"#;

    replies: r#"outbound:
  routes:
    - name: a
      hosts: [a]
      matches: [{ method: POST, path: { exact: /a } }]
      defer: {}
      idempotency: { window: 0s }
      reply: { status: 404, headers: { location: /, x-weft-event-id: a } }
    - { name: b, hosts: [a], matches: [{ method: POST }], defer: {}, reply: { status: 204, body: a } }
    - { name: c, reply: { headers: { connection: close }, mode: wait, message: a } }
upstreams: { a: { endpoints: { dns: a:1 } } }
outbox: { path: "${WEFT_OUTBOX}" }"# => r#"
7:30: outbound.routes[0].idempotency.window: must be longer than 0s
8:24: outbound.routes[0].reply.status: 404 does not say that the call was accepted: 2xx
8:50: outbound.routes[0].reply.headers.location: this field is ours to say
8:70: outbound.routes[0].reply.headers.x-weft-event-id: this field is ours to say
9:98: outbound.routes[1].reply.body: an answer of status 204 has no body
10:38: outbound.routes[2].reply.headers.connection: `connection` cannot be changed: it frames the message or belongs to one connection
10:65: outbound.routes[2].reply.mode: `wait` is not known here [known here: accepted]
10:80: outbound.routes[2].reply.message: this is not base64
"#;

    a_deferred_route_without_a_method: r#"outbound: { routes: [{ name: a, hosts: [a], defer: {} }, { name: b, hosts: [a], matches: [{ path: { prefix: /b } }], defer: {} }] }
upstreams: { a: { endpoints: { dns: a:1 } } }
outbox: { path: "${WEFT_OUTBOX}" }"# => r#"
1:45: warning: outbound.routes[0].defer: the route takes every method, but GET and HEAD are never deferred; name one in `matches`
1:93: warning: outbound.routes[1].matches[0]: takes every method, but GET and HEAD are never deferred; name one
"#;

    one_match_of_two_that_never_matches: r#"outbound:
  routes:
    - { name: first, hosts: [a], matches: [{ path: { prefix: /x } }] }
    - { name: half, hosts: [a], matches: [{ method: PUT }, { path: { prefix: /x } }] }
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
4:62: warning: outbound.routes[1].matches[1]: can never match: `first` (line 3) takes all of its calls
"#;

    a_try_longer_than_the_call: r#"outbound: { routes: [{ name: a, hosts: [a], timeouts: { request: 1s, backendRequest: 2s } }] }
upstreams: { a: { endpoints: { dns: a:1 } } }"# => r#"
1:86: warning: outbound.routes[0].timeouts.backendRequest: one try may take 2s, but the whole call only 1s
"#;

    an_opaque_port_of_http: r#"inbound: { ports: { 9090: { protocol: grpc, opaque: true }, 5432: { opaque: true } } }"# => r#"
1:53: inbound.ports.9090.opaque: nobody looks at an opaque port: it cannot have a protocol of HTTP's
"#;
}

#[test]
fn a_control_character() {
    for bad in ['\u{0}', '\u{1}', '\u{7f}'] {
        let text = format!("version: weft/v1\nservice: {{ name: a }} # {bad}\n");
        assert_eq!(told(&text), "2:24: a control character\n");
    }
}
