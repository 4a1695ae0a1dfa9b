//! Deferred calls and dead letters in an operator's hands: the same on a running sidecar and on a stopped one's store.

use serde_json::Value;

use crate::harness::{Call, Origin, Reply, Weft, free_port, wait_for};

/// A callee that refuses what says `bad`, and a sidecar whose admin port the file names.
fn start() -> (Origin, Weft) {
    let origin = Origin::answering(|seen| match seen.text().as_str() {
        "bad" => Reply::status(422).body("no customer 7"),
        _ => Reply::ok("thanks"),
    });
    let weft = Weft::start(&format!(
        r#"
        outbound:
          listen: "127.0.0.1:0"
          routes:
            - name: notify
              hosts: [email]
              matches: [{{ method: POST }}]
              backends: [{{ upstream: email }}]
              defer: {{ key: 'request.headers["x-customer"]', keepHeaders: [authorization] }}
        upstreams:
          email: {{ endpoints: {{ static: ["{}"] }} }}
        admin: {{ listen: "127.0.0.1:{}", metrics: "127.0.0.1:0" }}
        "#,
        origin.address(),
        free_port()
    ));
    (origin, weft)
}

/// Defers a call, and returns its id.
fn defer(weft: &Weft, customer: &str, body: &str) -> String {
    let answer = Call::post("/v1/send", body)
        .host("email")
        .header("x-customer", customer)
        .header("authorization", "Bearer s3cret")
        .send(&weft.outbound());
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.header("x-weft-event-id").expect("an id").to_owned()
}

/// A call that became a dead letter.
fn dead(weft: &Weft, customer: &str) -> String {
    let id = defer(weft, customer, "bad");
    wait_for("the dead letter", || {
        (weft.admin_get(&format!("/outbox/{id}"))["state"] == "pending"
            && weft.admin_get("/deadletters")["letters"]
                .as_array()?
                .iter()
                .any(|letter| letter["id"] == id))
        .then_some(())
    });
    id
}

#[track_caller]
fn printed(weft: &Weft, arguments: &[&str]) -> String {
    let output = weft.run(arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {err}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(weft: &Weft, arguments: &[&str]) -> String {
    let output = weft.run(arguments);
    assert!(!output.status.success(), "{arguments:?} was done");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn standing(weft: &Weft, id: &str) -> Value {
    serde_json::from_str(&printed(weft, &["outbox", "show", id])).expect("JSON")
}

#[test]
fn a_dead_letter_is_listed_and_shown_without_its_secrets() {
    let (_origin, weft) = start();
    let id = dead(&weft, "7");
    let list = printed(
        &weft,
        &[
            "dlq", "ls", "--status", "422", "--key", "7", "--since", "1h",
        ],
    );
    assert!(list.contains(&id) && list.contains("rejected"), "{list}");
    assert!(!printed(&weft, &["dlq", "ls", "--key", "8"]).contains(&id));
    let listed: Value = serde_json::from_str(&printed(&weft, &["dlq", "ls", "--json"])).unwrap();
    assert_eq!(listed[0]["id"], id);
    let shown = printed(&weft, &["dlq", "show", &id]);
    assert!(!shown.contains("s3cret"), "{shown}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["request"]["body"], "bad");
    assert_eq!(shown["request"]["path"], "/v1/send");
    assert_eq!(shown["answer"], "no customer 7");
    assert_eq!(shown["status"], 422);
}

#[test]
fn an_edited_letter_is_delivered_under_a_new_id() {
    let (origin, weft) = start();
    let id = dead(&weft, "7");
    std::fs::write(weft.path().join("fixed.txt"), "good").unwrap();
    let told = printed(
        &weft,
        &[
            "dlq",
            "edit",
            &id,
            "--body",
            "fixed.txt",
            "-H",
            "x-fixed: yes",
        ],
    );
    let new = told
        .split_whitespace()
        .last()
        .expect("the new id")
        .to_owned();
    assert_ne!(new, id);
    wait_for("the delivery", || {
        (standing(&weft, &new)["state"] == "delivered").then_some(())
    });
    let last = origin.requests().into_iter().last().unwrap();
    assert_eq!(
        (last.text().as_str(), last.header("x-fixed")),
        ("good", Some("yes"))
    );
    assert_eq!(last.header("ce-id"), Some(new.as_str()));
    let again = refused(&weft, &["dlq", "replay", &id]);
    assert!(again.contains("not a waiting dead letter"), "{again}");
}

#[test]
fn a_replay_by_filter_takes_what_it_matches() {
    let (origin, weft) = start();
    let (one, two) = (dead(&weft, "1"), dead(&weft, "2"));
    let would = printed(&weft, &["dlq", "replay", "--key", "1", "--dry-run"]);
    assert_eq!(would, format!("would replay {one}\n"));
    origin.answer(|_| Reply::ok("thanks"));
    printed(&weft, &["dlq", "replay", "--key", "1", "--rate", "100"]);
    wait_for("the delivery", || {
        (standing(&weft, &one)["state"] == "replayed").then_some(())
    });
    let left = printed(&weft, &["dlq", "ls"]);
    assert!(left.contains(&two) && !left.contains(&one), "{left}");
    let nothing = refused(&weft, &["dlq", "replay"]);
    assert!(nothing.contains("by id or by a filter"), "{nothing}");
}

#[test]
fn the_store_of_a_stopped_sidecar_answers_the_same() {
    let (_origin, mut weft) = start();
    let (one, two) = (dead(&weft, "1"), dead(&weft, "2"));
    let running = printed(&weft, &["dlq", "ls"]);
    weft.term();
    weft.wait_for_exit();
    assert_eq!(printed(&weft, &["dlq", "ls"]), running);
    assert_eq!(
        printed(&weft, &["dlq", "discard", &one]),
        format!("{one} discarded\n")
    );
    let left = printed(&weft, &["dlq", "ls"]);
    assert!(left.contains(&two) && !left.contains(&one), "{left}");
    printed(&weft, &["dlq", "replay", &two]);
    let waits = printed(&weft, &["outbox", "ls"]);
    assert!(
        waits.contains("1 pending") && waits.contains(&two),
        "{waits}"
    );
}

#[test]
fn a_store_that_another_holds_is_told_with_its_pid() {
    let (_origin, weft) = start();
    defer(&weft, "1", "good");
    // The same store, another admin port: nobody answers there.
    let file = std::fs::read_to_string(weft.config_path()).unwrap();
    let elsewhere = format!("127.0.0.1:{}", free_port());
    let file = file.replace(&weft.admin(), &elsewhere);
    std::fs::write(weft.path().join("other.yaml"), file).unwrap();
    let words = refused(&weft, &["outbox", "ls", "-c", "other.yaml"]);
    let pid = format!("held by pid {}", weft.pid().as_raw_nonzero());
    assert!(
        words.contains(&format!("no sidecar answers at {elsewhere}")),
        "{words}"
    );
    assert!(words.contains(&pid), "{words}");
    let check = refused(&weft, &["check", "-c", "other.yaml"]);
    assert!(check.contains("held by another process"), "{check}");
    // With its own file it is the sidecar's own, and well.
    assert!(printed(&weft, &["check"]).contains("held by the sidecar that answers"));
}

#[test]
fn the_admin_port_refuses_in_words() {
    let (_origin, weft) = start();
    let id = dead(&weft, "7");
    let status = |call: Call| call.send(&weft.admin()).status;
    assert_eq!(status(Call::get(&format!("/deadletters/{id}/replay"))), 405);
    assert_eq!(status(Call::get("/deadletters?reson=rejected")), 400);
    assert_eq!(status(Call::get("/deadletters/nothing")), 404);
    let edit = |body: &str| status(Call::post(&format!("/deadletters/{id}/edit"), body));
    assert_eq!(edit("{\"bdy\": 1}"), 400);
    assert_eq!(edit("{\"path\": \"elsewhere\"}"), 400);
    assert_eq!(
        status(Call::post(
            &format!("/deadletters/{id}/discard?who=anna"),
            ""
        )),
        200
    );
    assert_eq!(
        status(Call::post(&format!("/deadletters/{id}/discard"), "")),
        409
    );
}
