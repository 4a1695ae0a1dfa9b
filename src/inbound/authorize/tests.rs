//! Rules against callers and requests: what each field means, and that no order or spelling changes the answer.

use http::{HeaderName, HeaderValue};
use prometheus::Registry;
use proptest::prelude::*;

use super::*;
use crate::inbound::settings::{CallerMatch, RuleSettings, TargetMatch};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const PARTNER: &str = "spiffe://partner.example/ns/shop/sa/web";

/// Reads YAML as the file is read: an enum with a value is a mapping of one key.
fn said<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    let value: serde_json::Value = serde_yaml::from_str(yaml).unwrap();
    serde_json::from_value(value).unwrap()
}

/// The policy of an `authorization:` block.
fn policy(yaml: &str) -> Arc<Policy> {
    compiled(&said(yaml))
}

fn compiled(settings: &Authorization) -> Arc<Policy> {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    Policy::compile(settings, &Home::new("cluster.local", None), &metrics).unwrap()
}

/// A call as a test writes it: `POST orders/a?` from an identity (empty: none) and an address to a port.
#[derive(Debug, Clone)]
struct Asked {
    identity: Option<SpiffeId>,
    ip: IpAddr,
    port: u16,
    method: Method,
    host: String,
    host_port: Option<u16>,
    path: String,
    headers: HeaderMap,
}

impl Asked {
    fn new(method: &str, host: &str, path: &str) -> Self {
        Asked {
            identity: None,
            ip: [10, 0, 0, 7].into(),
            port: 8080,
            method: method.parse().unwrap(),
            host: host.to_owned(),
            host_port: None,
            path: path.to_owned(),
            headers: HeaderMap::new(),
        }
    }

    fn by(mut self, identity: &str) -> Self {
        self.identity = Some(SpiffeId::parse(identity).unwrap());
        self
    }

    fn from(mut self, ip: &str) -> Self {
        self.ip = ip.parse().unwrap();
        self
    }

    fn on_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            identity: self.identity.as_ref(),
            ip: self.ip,
            port: self.port,
        }
    }

    fn request(&self, policy: &Arc<Policy>) -> Says {
        let read = crate::http::path::read(&self.path).unwrap();
        let view = View {
            method: &self.method,
            host: &self.host,
            host_port: self.host_port,
            path: &read.text,
            ambiguous: read.ambiguous,
            headers: &self.headers,
        };
        let whole = policy.request(&self.caller(), &view);
        let standing = Standing::new(policy, &self.caller());
        let prepared = standing.request(&view);
        assert_eq!(
            (whole.says, whole.rule()),
            (prepared.says, prepared.rule()),
            "a standing says what the policy says"
        );
        whole.says
    }

    fn connection(&self, policy: &Policy) -> bool {
        policy.connection(&self.caller()).passes()
    }
}

fn get(path: &str) -> Asked {
    Asked::new("GET", "orders", path)
}

/// A policy with one allow rule of these `from` and `to`, or one deny rule under `default: allow`.
fn one(action: &str, from: &str, to: &str) -> Arc<Policy> {
    let default = if action == "allow" { "deny" } else { "allow" };
    policy(&format!(
        "{{ default: {default}, rules: [{{ name: r, action: {action}, from: {from}, to: {to} }}] }}"
    ))
}

#[test]
fn deny_comes_before_allow_and_both_before_the_default() {
    let policy = policy(
        "
        default: deny
        rules:
          - { name: readers, action: allow, to: [{ methods: [GET, POST] }] }
          - { name: no-posts, action: deny, to: [{ methods: [POST] }] }
        ",
    );
    for (method, says) in [
        ("GET", Says::Pass),
        ("POST", Says::Refuse),
        ("PUT", Says::Refuse),
    ] {
        assert_eq!(
            Asked::new(method, "h", "/").request(&policy),
            says,
            "{method}"
        );
    }
}

#[test]
fn a_policy_without_rules_is_its_default() {
    assert_eq!(get("/").request(&policy("{ default: allow }")), Says::Pass);
    assert_eq!(get("/").request(&policy("{ default: deny }")), Says::Refuse);
    assert_eq!(get("/").request(&policy("{}")), Says::Refuse);
}

#[test]
fn a_caller_meets_all_fields_of_one_entry() {
    let web = get("/").by(WEB);
    for (from, passes) in [
        (format!("[{{ identity: \"{WEB}\" }}]"), true),
        (
            "[{ identity: \"spiffe://cluster.local/ns/shop/*\" }]".into(),
            true,
        ),
        ("[{ identity: \"*\" }]".into(), true),
        (
            "[{ identity: \"spiffe://cluster.local/ns/other/*\" }]".into(),
            false,
        ),
        ("[{ trustDomain: cluster.local }]".into(), true),
        ("[{ trustDomain: partner.example }]".into(), false),
        ("[{ namespace: shop }]".into(), true),
        ("[{ namespace: sho }]".into(), false),
        ("[{ ip: 10.0.0.0/8 }]".into(), true),
        ("[{ ip: [10.0.1.0/24, \"fd00::/8\"] }]".into(), false),
        ("[{ namespace: shop, ip: 10.0.0.0/8 }]".into(), true),
        ("[{ namespace: shop, ip: 11.0.0.0/8 }]".into(), false),
        ("[{ namespace: none }, { ip: 10.0.0.7 }]".into(), true),
    ] {
        for action in ["allow", "deny"] {
            let says = web.request(&one(action, &from, "[]"));
            let expected = if passes == (action == "allow") {
                Says::Pass
            } else {
                Says::Refuse
            };
            assert_eq!(says, expected, "{action} {from}");
        }
    }
}

#[test]
fn a_caller_without_an_identity_meets_addresses_alone() {
    for from in [
        "[{ identity: \"*\" }]",
        "[{ identity: \"spiffe://*\" }]",
        "[{ trustDomain: cluster.local }]",
        "[{ namespace: shop }]",
        "[{ identity: \"*\", ip: 10.0.0.0/8 }]",
    ] {
        assert_eq!(
            get("/").request(&one("allow", from, "[]")),
            Says::Refuse,
            "{from}"
        );
    }
    assert_eq!(
        get("/").request(&one("allow", "[{ ip: 10.0.0.7 }]", "[]")),
        Says::Pass
    );
}

#[test]
fn an_address_is_the_same_in_both_of_its_forms() {
    let policy = one("deny", "[{ ip: 10.0.0.0/8 }]", "[]");
    assert_eq!(
        get("/").from("::ffff:10.0.0.7").request(&policy),
        Says::Refuse
    );
}

#[test]
fn a_bare_namespace_lets_in_our_own_and_keeps_out_everyones() {
    let partner = get("/").by(PARTNER);
    let in_shop = "[{ namespace: shop }]";
    assert_eq!(partner.request(&one("allow", in_shop, "[]")), Says::Refuse);
    assert_eq!(partner.request(&one("deny", in_shop, "[]")), Says::Refuse);
    let said = "[{ namespace: shop, trustDomain: partner.example }]";
    assert_eq!(partner.request(&one("allow", said, "[]")), Says::Pass);
}

#[test]
fn a_request_meets_all_fields_of_one_entry() {
    let asked = Asked::new("POST", "orders.shop", "/orders/7").with("x-tier", "gold");
    for (to, meets) in [
        ("[{ ports: [8080] }]", true),
        ("[{ ports: [80, 81] }]", false),
        ("[{ hosts: [orders.shop] }]", true),
        ("[{ hosts: [ORDERS.Shop.] }]", true),
        ("[{ hosts: [\"*.shop\"] }]", true),
        ("[{ hosts: [\"*.orders.shop\"] }]", false),
        ("[{ hosts: [\"*\"] }]", true),
        ("[{ hosts: [\"orders.shop:80\"] }]", true),
        ("[{ hosts: [\"orders.shop:81\"] }]", false),
        ("[{ hosts: [rders.shop, shop] }]", false),
        ("[{ methods: [GET, POST] }]", true),
        ("[{ methods: [GET] }]", false),
        ("[{ path: { exact: /orders/7 } }]", true),
        ("[{ path: { exact: /orders } }]", false),
        ("[{ path: { prefix: /orders } }]", true),
        ("[{ path: { prefix: /orders/ } }]", true),
        ("[{ path: { prefix: /order } }]", false),
        ("[{ path: { prefix: / } }]", true),
        ("[{ path: { regex: \"/orders/[0-9]+\" } }]", true),
        ("[{ path: { regex: \"/orders\" } }]", false),
        ("[{ headers: { x-tier: gold } }]", true),
        ("[{ headers: { x-tier: { regex: \"g.*\" } } }]", true),
        ("[{ headers: { x-tier: Gold } }]", false),
        ("[{ headers: { x-other: gold } }]", false),
        (
            "[{ methods: [GET] }, { hosts: [orders.shop], methods: [POST] }]",
            true,
        ),
        ("[{ methods: [POST], ports: [1] }]", false),
    ] {
        for action in ["allow", "deny"] {
            let says = asked.request(&one(action, "[]", to));
            let expected = if meets == (action == "allow") {
                Says::Pass
            } else {
                Says::Refuse
            };
            assert_eq!(says, expected, "{action} {to}");
        }
    }
}

#[test]
fn an_escape_hides_no_path_from_a_rule() {
    let policy = one("deny", "[]", "[{ path: { prefix: \"/admin:all\" } }]");
    for path in [
        "/admin:all",
        "/admin%3Aall",
        "/admin%3aall/x",
        "/%61dmin:all",
        "/x/../admin:all",
        "/./admin:all/",
        "/%2e/admin:all",
        "/x/%2e%2e/admin:all",
    ] {
        assert_eq!(get(path).request(&policy), Says::Refuse, "{path}");
    }
    assert_eq!(
        get("/admin%253Aall").request(&policy),
        Says::Pass,
        "escaped twice is another path"
    );
    let escaped = one("deny", "[]", "[{ path: { exact: \"/caf%C3%A9\" } }]");
    assert_eq!(get("/caf%c3%a9").request(&escaped), Says::Refuse);
    let regex = one("deny", "[]", "[{ path: { regex: \"/v1/[0-9]+:cancel\" } }]");
    assert_eq!(get("/v1/7%3Acancel").request(&regex), Says::Refuse);
}

#[test]
fn an_ambiguous_path_is_told_only_where_it_matters() {
    let both = policy(
        "
        default: deny
        rules:
          - { name: posts, action: deny, to: [{ methods: [POST] }] }
          - { name: no-admin, action: deny, to: [{ methods: [GET], path: { prefix: /admin } }] }
          - { name: all, action: allow, to: [{ methods: [GET, POST] }] }
        ",
    );
    for path in [
        "//admin",
        "/a%2f..%2fadmin",
        "/x;/admin",
        "/x%5cadmin",
        "/x\\admin",
    ] {
        assert_eq!(get(path).request(&both), Says::Ambiguous, "{path}");
        // Denied in any reading.
        assert_eq!(
            Asked::new("POST", "h", path).request(&both),
            Says::Refuse,
            "{path}"
        );
        assert_eq!(
            Asked::new("PUT", "h", path).request(&both),
            Says::Refuse,
            "{path}"
        );
    }
    let public = policy(
        "
        default: deny
        rules:
          - { name: public, action: allow, to: [{ path: { prefix: /public } }] }
          - { name: web, action: allow, from: [{ namespace: shop }] }
        ",
    );
    assert_eq!(get("//public").request(&public), Says::Ambiguous);
    assert_eq!(
        get("//public").by(WEB).request(&public),
        Says::Pass,
        "allowed in any reading"
    );
    let pathless = one("allow", "[]", "[{ methods: [GET] }]");
    assert_eq!(
        get("//a;b").request(&pathless),
        Says::Pass,
        "no rule looks at paths"
    );
    let root = one("allow", "[]", "[{ path: { prefix: / } }]");
    assert_eq!(
        get("//a;b").request(&root),
        Says::Pass,
        "every path is under the root"
    );
}

#[test]
fn a_field_that_comes_twice_is_read_to_the_safe_side() {
    let gold = "[{ headers: { x-tier: gold } }]";
    let (allow, deny) = (one("allow", "[]", gold), one("deny", "[]", gold));
    let twice = get("/").with("x-tier", "gold").with("x-tier", "none");
    assert_eq!(twice.request(&allow), Says::Refuse);
    assert_eq!(twice.request(&deny), Says::Refuse);
    let list = get("/").with("x-tier", "none, gold");
    assert_eq!(list.request(&allow), Says::Refuse);
    assert_eq!(list.request(&deny), Says::Refuse);
}

#[test]
fn a_missing_host_slips_past_no_deny_rule() {
    let nameless = Asked::new("GET", "", "/");
    assert_eq!(
        nameless.request(&one("deny", "[]", "[{ hosts: [admin] }]")),
        Says::Refuse
    );
    assert_eq!(
        nameless.request(&one("allow", "[]", "[{ hosts: [orders] }]")),
        Says::Refuse
    );
    assert_eq!(
        nameless.request(&one("allow", "[]", "[{ hosts: [\"*\"] }]")),
        Says::Pass
    );
}

#[test]
fn an_address_as_host_is_compared_as_an_address() {
    let policy = one("deny", "[]", "[{ hosts: [\"[0:0::1]\", 10.0.0.1] }]");
    for host in ["::1", "10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"] {
        assert_eq!(
            Asked::new("GET", host, "/").request(&policy),
            Says::Refuse,
            "{host}"
        );
    }
    assert_eq!(Asked::new("GET", "::2", "/").request(&policy), Says::Pass);
}

#[test]
fn the_whole_server_is_under_the_root() {
    let policy = one("deny", "[]", "[{ path: { prefix: / } }]");
    let asked = Asked::new("OPTIONS", "h", "/");
    let view = View {
        method: &asked.method,
        host: "h",
        host_port: None,
        path: "*",
        ambiguous: false,
        headers: &asked.headers,
    };
    assert!(!policy.request(&asked.caller(), &view).passes());
}

#[test]
fn of_a_connection_only_who_and_where_counts() {
    let web = get("/").by(WEB);
    for (to, allows, denies) in [
        ("[]", true, true),
        ("[{ ports: [8080] }]", true, true),
        ("[{ ports: [81] }]", false, false),
        ("[{ methods: [GET] }]", false, true),
        ("[{ ports: [8080], hosts: [\"*\"] }]", false, true),
        ("[{ path: { prefix: / } }]", false, true),
        ("[{ headers: { a: b } }]", false, true),
        ("[{ ports: [81], methods: [GET] }]", false, false),
        ("[{ methods: [GET] }, { ports: [8080] }]", true, true),
    ] {
        assert_eq!(
            web.connection(&one("allow", "[{ namespace: shop }]", to)),
            allows,
            "allow {to}"
        );
        assert_eq!(
            !web.connection(&one("deny", "[{ namespace: shop }]", to)),
            denies,
            "deny {to}"
        );
    }
    assert!(!get("/").connection(&one("allow", "[{ namespace: shop }]", "[]")));
    assert!(get("/").connection(&one("deny", "[{ namespace: shop }]", "[]")));
}

#[test]
fn a_dry_run_tells_what_it_would_change_and_changes_nothing() {
    let policy = policy(
        "
        default: deny
        rules:
          - { name: maybe-no, action: deny, dryRun: true, to: [{ methods: [GET, PUT] }] }
          - { name: maybe-yes, action: allow, dryRun: true, to: [{ methods: [GET, POST, PUT] }] }
          - { name: gets, action: allow, to: [{ methods: [GET] }] }
        ",
    );
    for (method, says, rule, tried) in [
        ("GET", Says::Pass, "gets", &["maybe-no"][..]),
        ("POST", Says::Refuse, "default", &["maybe-yes"]),
        ("PUT", Says::Refuse, "default", &["maybe-yes"]),
        ("HEAD", Says::Refuse, "default", &[]),
    ] {
        let asked = Asked::new(method, "h", "/");
        let view = View {
            method: &asked.method,
            host: "h",
            host_port: None,
            path: "/",
            ambiguous: false,
            headers: &asked.headers,
        };
        let verdict = policy.request(&asked.caller(), &view);
        let found: Vec<&str> = verdict.tried().map(ServiceName::as_str).collect();
        assert_eq!(
            (verdict.says, verdict.rule().as_str(), &*found),
            (says, rule, tried),
            "{method}"
        );
    }
}

#[test]
fn a_regex_that_routes_could_not_use_is_a_problem() {
    let settings: Authorization =
        said("rules: [{ name: r, action: deny, to: [{}, { path: { regex: '\\p{Greek}' } }] }]");
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let problem = Policy::compile(&settings, &Home::new("a", None), &metrics).unwrap_err();
    assert_eq!((problem.rule, problem.to), (0, 1));
    assert!(settings.rules[0].to[1].wrong().is_some());
}

#[test]
fn a_standing_is_of_one_policy() {
    let (one, other) = (policy("{}"), policy("{}"));
    let standing = Standing::new(&one, &get("/").caller());
    assert!(standing.is_of(&one) && !standing.is_of(&other));
}

/// Settings as the file could say them, from few words so that rules often meet.
fn rules() -> impl Strategy<Value = Vec<RuleSettings>> {
    fn some<T: Clone + std::fmt::Debug + 'static>(
        of: &'static [&'static str],
        make: fn(&str) -> T,
    ) -> impl Strategy<Value = T> {
        proptest::sample::select(of).prop_map(make)
    }
    let from = some(
        &[
            "{ identity: \"spiffe://cluster.local/ns/shop/sa/web\" }",
            "{ identity: \"spiffe://cluster.local/ns/*\" }",
            "{ trustDomain: partner.example }",
            "{ namespace: shop }",
            "{ ip: 10.0.0.0/9 }",
        ],
        said::<CallerMatch>,
    );
    let to = some(
        &[
            "{ ports: [8080] }",
            "{ hosts: [orders] }",
            "{ methods: [GET] }",
            "{ path: { prefix: /a } }",
            "{ path: { exact: /a/b }, methods: [POST] }",
            "{ path: { regex: \"/a/.*\" } }",
            "{ headers: { x: y } }",
        ],
        said::<TargetMatch>,
    );
    let rule = (
        any::<bool>(),
        proptest::bool::weighted(0.2),
        proptest::collection::vec(from, 0..3),
        proptest::collection::vec(to, 0..3),
    );
    let rule = rule.prop_map(|(allow, dry_run, from, to)| RuleSettings {
        name: "r".parse().unwrap(),
        action: if allow { Action::Allow } else { Action::Deny },
        dry_run,
        from,
        to,
    });
    proptest::collection::vec(rule, 0..6)
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        proptest::option::of(proptest::sample::select(
            &[WEB, PARTNER, "spiffe://cluster.local/x"][..],
        )),
        proptest::sample::select(&["10.0.0.7", "10.200.0.1", "fd00::1"][..]),
        proptest::sample::select(&[8080u16, 81][..]),
        proptest::sample::select(&["GET", "POST"][..]),
        proptest::sample::select(&["orders", "other", ""][..]),
        proptest::sample::select(&["/a", "/a/b", "/b", "/a//b", "/a%2fb", "/%61/b"][..]),
        any::<bool>(),
    )
        .prop_map(|(identity, ip, port, method, host, path, header)| {
            let asked = Asked::new(method, host, path).from(ip).on_port(port);
            let asked = match identity {
                Some(identity) => asked.by(identity),
                None => asked,
            };
            match header {
                true => asked.with("x", "y"),
                false => asked,
            }
        })
}

fn settings(default: Action, rules: &[RuleSettings]) -> Authorization {
    Authorization {
        default,
        rules: rules.to_vec(),
    }
}

proptest! {
    #[test]
    fn the_order_of_rules_has_no_meaning(rules in rules(), asked in asked(), turn in 0usize..6) {
        let mut turned = rules.clone();
        turned.rotate_left(turn.min(rules.len()));
        for default in [Action::Allow, Action::Deny] {
            let (one, other) = (compiled(&settings(default, &rules)), compiled(&settings(default, &turned)));
            prop_assert_eq!(asked.request(&one), asked.request(&other));
            prop_assert_eq!(asked.connection(&one), asked.connection(&other));
        }
    }

    #[test]
    fn one_more_deny_rule_lets_nothing_new_pass(rules in rules(), more in rules(), asked in asked()) {
        let mut longer = rules.clone();
        longer.extend(more.into_iter().map(|rule| RuleSettings { action: Action::Deny, ..rule }));
        for default in [Action::Allow, Action::Deny] {
            let (few, many) = (compiled(&settings(default, &rules)), compiled(&settings(default, &longer)));
            prop_assert!(asked.request(&few) == Says::Pass || asked.request(&many) != Says::Pass);
            prop_assert!(asked.connection(&few) || !asked.connection(&many));
        }
    }

    #[test]
    fn a_dry_run_decides_nothing(rules in rules(), asked in asked()) {
        let mut bare = rules.clone();
        bare.retain(|rule| !rule.dry_run);
        for default in [Action::Allow, Action::Deny] {
            let (with, without) = (compiled(&settings(default, &rules)), compiled(&settings(default, &bare)));
            prop_assert_eq!(asked.request(&with), asked.request(&without));
            prop_assert_eq!(asked.connection(&with), asked.connection(&without));
        }
    }

    #[test]
    fn silence_never_gets_past_what_a_request_would_not(rules in rules(), asked in asked()) {
        // What a silent connection may do, every request of this caller may do as well: nobody gains by silence.
        for default in [Action::Allow, Action::Deny] {
            let policy = compiled(&settings(default, &rules));
            if asked.connection(&policy) {
                prop_assert_eq!(asked.request(&policy), Says::Pass);
            }
        }
    }

    #[test]
    fn what_is_explained_is_what_is_decided(rules in rules(), asked in asked()) {
        let policy = compiled(&settings(Action::Deny, &rules));
        let read = crate::http::path::read(&asked.path).unwrap();
        let view = View {
            method: &asked.method,
            host: &asked.host,
            host_port: None,
            path: &read.text,
            ambiguous: read.ambiguous,
            headers: &asked.headers,
        };
        let verdict = policy.request(&asked.caller(), &view);
        let steps = policy.explain(&asked.caller(), &view);
        let last = steps.last().unwrap();
        prop_assert!(matches!(last.outcome, Outcome::Holds(..)) && !last.dry_run);
        if verdict.says != Says::Ambiguous {
            prop_assert_eq!(last.place, verdict.place());
        } else {
            prop_assert!(steps.iter().any(|step| step.outcome == Outcome::Perhaps));
        }
    }
}
