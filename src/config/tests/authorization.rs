//! What an operator is told of rules that cannot be meant.

use super::told;

/// What is told of an `authorization:` block, places left out.
fn of(authorization: &str) -> String {
    let mut text = String::from(
        "identity: { workloadApi: \"unix:///run/agent.sock\" }\ninbound:\n  authorization:\n",
    );
    for line in authorization.trim_matches('\n').lines() {
        text += &format!("    {line}\n");
    }
    told(&text)
}

/// What is told of one rule under `default: deny`, without the warning that nothing is allowed.
fn rule(rule: &str) -> String {
    of(&format!(
        "default: deny\nrules:\n  - {{ name: all, action: allow }}\n  - {rule}"
    ))
}

#[test]
fn a_good_block_is_taken() {
    let words = of(r#"
default: deny
rules:
  - name: only-web
    action: allow
    from: [{ identity: "spiffe://cluster.local/ns/shop/sa/web" }, { namespace: ops, ip: [10.0.0.0/8] }]
    to: [{ ports: [8080], hosts: [orders, "*.shop"], methods: [POST], path: { prefix: /orders }, headers: { x-tier: gold } }]
"#);
    assert_eq!(words, "");
}

#[test]
fn an_allow_rule_under_default_allow_keeps_nobody_out() {
    assert_eq!(
        of("default: allow\nrules: [{ name: r, action: allow }]"),
        "5:32: inbound.authorization.rules[0].action: allows what `default: allow` allows anyway: the rule keeps nobody out \
         [set `default: deny` beside `rules`, or make it a deny rule]\n"
    );
}

#[test]
fn an_empty_list_is_no_list() {
    for (said, path) in [
        ("from: []", "from"),
        ("to: []", "to"),
        ("from: [{ ip: [] }]", "from[0].ip"),
        ("to: [{ ports: [] }]", "to[0].ports"),
        ("to: [{ hosts: [] }]", "to[0].hosts"),
        ("to: [{ methods: [], ports: [1] }]", "to[0].methods"),
    ] {
        let words = rule(&format!("{{ name: r, action: deny, {said} }}"));
        let expected = format!(
            "inbound.authorization.rules[1].{path}: an empty list holds for nothing; left out it holds for everything\n"
        );
        assert!(words.ends_with(&expected), "{said}: {words}");
        assert_eq!(words.lines().count(), 1, "{words}");
    }
    for (said, key) in [("from: [{}]", "from"), ("to: [{}]", "to")] {
        let words = rule(&format!("{{ name: r, action: deny, {said} }}"));
        assert!(
            words.contains(&format!("leave `{key}` out for that")),
            "{words}"
        );
    }
}

#[test]
fn what_can_never_hold_is_told() {
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    for (said, words) in [
        (
            format!("from: [{{ identity: \"{web}\", trustDomain: other }}]"),
            "of another trust domain",
        ),
        (
            format!("from: [{{ identity: \"{web}\", namespace: other }}]"),
            "of another namespace",
        ),
        (
            "from: [{ identity: web }]".into(),
            "does not begin with spiffe://",
        ),
        (
            "from: [{ identity: \"spiffe://cluster.local*\" }]".into(),
            "a whole trust domain",
        ),
        (
            "from: [{ trustDomain: Cluster.local }]".into(),
            "no trust domain",
        ),
        ("from: [{ ip: 10.0.0.1/8 }]".into(), "write `10.0.0.0/8`"),
        ("from: [{ ip: ten }]".into(), "not a range of IP addresses"),
        ("from: [{ broker: main }]".into(), "unknown key `broker`"),
        ("to: [{ ports: [0] }]".into(), "0 is not a port"),
        (
            "to: [{ headers: { host: a } }]".into(),
            "matched by `hosts`",
        ),
        (
            "to: [{ headers: { X-Forwarded-Client-Cert: a } }]".into(),
            "said by weft",
        ),
        (
            "to: [{ headers: { connection: close } }]".into(),
            "no rule sees it",
        ),
        ("to: [{ path: { prefix: //a } }]".into(), "read in two ways"),
        (
            "to: [{ path: { exact: /a%2Fb } }]".into(),
            "read in two ways",
        ),
        (
            "to: [{ path: { regex: \"(\" } }]".into(),
            "does not compile",
        ),
        (
            "to: [{ path: { regex: '\\p{Greek}' } }]".into(),
            "regex `\\p{Greek}`",
        ),
        (
            "to: [{ headers: { a: { regex: '\\p{Greek}' } } }]".into(),
            "regex `\\p{Greek}`",
        ),
        ("dryRun: maybe".into(), "true or false"),
    ] {
        let told = rule(&format!("{{ name: r, action: deny, {said} }}"));
        assert!(
            told.contains(words) && !told.contains("warning"),
            "{said}: {told}"
        );
    }
}

#[test]
fn what_holds_for_more_or_less_than_it_seems_is_a_warning() {
    let words = rule("{ name: r, action: allow, from: [{ identity: \"spiffe://a/ns/shop*\" }] }");
    assert!(
        words.contains("warning: ") && words.contains("`spiffe://a/ns/shop-other`"),
        "{words}"
    );
    assert_eq!(
        rule("{ name: r, action: allow, from: [{ identity: \"spiffe://a/ns/shop/*\" }] }"),
        ""
    );
    let words = rule("{ name: r, action: deny, to: [{ path: { exact: /admin } }] }");
    assert!(
        words.contains("warning: ") && words.contains("`prefix` denies all of it"),
        "{words}"
    );
    assert_eq!(
        rule("{ name: r, action: allow, to: [{ path: { exact: /admin } }] }"),
        ""
    );
    for none in ["{}", "rules: [{ name: r, action: allow, dryRun: true }]"] {
        let words = of(none);
        assert!(
            words.contains("warning: ") && words.contains("every call is refused"),
            "{words}"
        );
    }
}

#[test]
fn names_of_rules_are_their_own() {
    let words = rule("{ name: all, action: deny }");
    assert!(
        words.contains("a second rule named `all`; the first is in line 6"),
        "{words}"
    );
    assert!(rule("{ name: default, action: deny }").contains("choose another name"));
    assert!(rule("{ action: deny }").contains("`name`"));
    assert!(rule("{ name: r }").contains("`action`"));
}

#[test]
fn without_an_identity_nobody_has_one() {
    let words = told(
        "inbound: { authorization: { rules: [{ name: r, action: allow, from: [{ ip: 10.0.0.0/8 }, { namespace: shop }] }] } }",
    );
    assert!(words.contains("from[1]: holds for nobody"), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
}
