//! Chains good and bad, judged by one generation and by the next.

use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::pki_types::pem::PemObject;

use super::*;
use crate::tls::{
    issue::{Authority, Issued, workload},
    tests::{DAY, ROOT, bundles, id, root},
};

fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(issued.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap()
}

fn trust(roots: &[(&str, &Authority)], lists: &[String]) -> Trust {
    numbered(1, roots, lists)
}

fn numbered(number: u64, roots: &[(&str, &Authority)], lists: &[String]) -> Trust {
    let revocations = match lists {
        [] => Revocations::default(),
        lists => Revocations::from_pem(lists.concat().as_bytes()).unwrap(),
    };
    Trust::new(number, bundles(roots), revocations)
}

fn own() -> Trust {
    trust(&[("mesh.example", &ROOT)], &[])
}

fn judged(
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    role: Role,
    at: UnixTime,
) -> Result<Arc<Peer>, Untrusted> {
    trust.judge(&chain[0], &chain[1..], role, at)
}

fn judge(trust: &Trust, issued: &Issued) -> Result<Arc<Peer>, Untrusted> {
    judged(trust, &chain(issued), Role::Client, UnixTime::now())
}

fn later(trust: &Trust, issued: &Issued, by: Duration) -> Result<Arc<Peer>, Untrusted> {
    let then = UnixTime::since_unix_epoch(since_epoch(SystemTime::now() + by));
    judged(trust, &chain(issued), Role::Client, then)
}

fn params(uri: &str) -> CertificateParams {
    workload(&[uri], SystemTime::now(), DAY).unwrap()
}

#[test]
fn a_root_vouches_for_its_own_domain_alone() {
    let (web, partner) = (
        ROOT.issue(&id("web"), DAY).unwrap(),
        root("partner.example"),
    );
    assert_eq!(judge(&own(), &web).unwrap().id, id("web"));
    // The partner's root signs a certificate that names a workload of ours.
    let forged = partner.issue(&id("web"), DAY).unwrap();
    let both = trust(
        &[("mesh.example", &ROOT), ("partner.example", &partner)],
        &[],
    );
    assert_eq!(
        judge(&both, &forged).unwrap_err(),
        Untrusted::UnknownAuthority
    );
    let theirs = SpiffeId::parse("spiffe://partner.example/billing").unwrap();
    let honest = partner.issue(&theirs, DAY).unwrap();
    assert_eq!(judge(&both, &honest).unwrap().id, theirs);
    assert_eq!(
        judge(&own(), &honest).unwrap_err(),
        Untrusted::UnknownDomain(theirs)
    );
}

#[test]
fn the_dates_of_leaf_and_root_count_each_time() {
    let long = Authority::new("mesh.example", "long", 10 * DAY).unwrap();
    let trust = trust(&[("mesh.example", &long)], &[]);
    let web = long.issue(&id("web"), DAY).unwrap();
    assert!(judge(&trust, &web).is_ok());
    // Remembered by now.
    assert_eq!(
        later(&trust, &web, 2 * DAY).unwrap_err(),
        Untrusted::Expired
    );
    let future = long
        .sign(workload(&[id("web").as_str()], SystemTime::now() + DAY, DAY).unwrap())
        .unwrap();
    assert_eq!(judge(&trust, &future).unwrap_err(), Untrusted::NotYetValid);
    // A leaf that outlives its root ends with it.
    let brief = Authority::new("mesh.example", "brief", DAY).unwrap();
    let outliving = brief.issue(&id("web"), 9 * DAY).unwrap();
    let by_brief = self::trust(&[("mesh.example", &brief)], &[]);
    let peer = judge(&by_brief, &outliving).unwrap();
    assert!(peer.not_after <= SystemTime::now() + DAY);
    let fresh = self::trust(&[("mesh.example", &brief)], &[]);
    assert_eq!(
        later(&fresh, &outliving, 2 * DAY).unwrap_err(),
        Untrusted::Expired
    );
}

#[test]
fn a_certificate_serves_the_side_it_is_for() {
    let mut server = params("spiffe://mesh.example/web");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = ROOT.sign(server).unwrap();
    assert_eq!(judge(&own(), &server).unwrap_err(), Untrusted::Purpose);
    assert!(judged(&own(), &chain(&server), Role::Server, UnixTime::now()).is_ok());
    let mut any = params("spiffe://mesh.example/web");
    any.extended_key_usages.clear();
    assert!(judge(&own(), &ROOT.sign(any).unwrap()).is_ok());
}

#[test]
fn a_chain_has_ten_kibibytes() {
    let web = ROOT.issue(&id("web"), DAY).unwrap();
    let long: Vec<_> = chain(&web).into_iter().cycle().take(40).collect();
    let error = judged(&own(), &long, Role::Client, UnixTime::now()).unwrap_err();
    assert!(matches!(error, Untrusted::TooLong(_)), "{error}");
}

#[test]
fn what_is_revoked_is_refused_and_what_is_unknown_is_not() {
    let (web, orders) = (
        ROOT.issue(&id("web"), DAY).unwrap(),
        ROOT.issue(&id("orders"), DAY).unwrap(),
    );
    let next = SystemTime::now() + DAY;
    let list = ROOT.revoke(&[&web.serial], next).unwrap();
    let ours: &[(&str, &Authority)] = &[("mesh.example", &ROOT)];
    let trust = trust(ours, &[list]);
    assert_eq!(judge(&trust, &web).unwrap_err(), Untrusted::Revoked);
    assert!(judge(&trust, &orders).is_ok());
    // Of another issuer nothing is known.
    let partner = root("partner.example");
    let theirs = partner
        .issue(&SpiffeId::parse("spiffe://partner.example/a").unwrap(), DAY)
        .unwrap();
    let with_partner: &[(&str, &Authority)] =
        &[("mesh.example", &ROOT), ("partner.example", &partner)];
    let lists = [ROOT.revoke(&[&web.serial], next).unwrap()];
    assert!(judge(&self::trust(with_partner, &lists), &theirs).is_ok());
}

#[test]
fn a_list_past_its_date_still_revokes() {
    let web = ROOT.issue(&id("web"), DAY).unwrap();
    let list = ROOT
        .revoke(
            &[&web.serial],
            SystemTime::now() - Duration::from_secs(3600),
        )
        .unwrap();
    let trust = trust(&[("mesh.example", &ROOT)], &[list]);
    assert_eq!(judge(&trust, &web).unwrap_err(), Untrusted::Revoked);
    assert!(judge(&trust, &ROOT.issue(&id("orders"), DAY).unwrap()).is_ok());
}

/// A replaced root often keeps its name. The list of the old key must neither keep everybody out nor hide the new
/// key's.
#[test]
fn lists_of_two_keys_with_one_name_stand_side_by_side() {
    let old = root("mesh.example");
    let web = ROOT.issue(&id("web"), DAY).unwrap();
    let orders = ROOT.issue(&id("orders"), DAY).unwrap();
    let next = SystemTime::now() + DAY;
    let lists = [
        old.revoke(&[], next).unwrap(),
        ROOT.revoke(&[&web.serial], next).unwrap(),
    ];
    let mut reversed = lists.clone();
    reversed.reverse();
    for lists in [lists, reversed] {
        let trust = trust(&[("mesh.example", &ROOT)], &lists);
        assert_eq!(judge(&trust, &web).unwrap_err(), Untrusted::Revoked);
        assert!(judge(&trust, &orders).is_ok());
    }
}

#[test]
fn a_later_generation_judges_what_is_open_again() {
    let ours: &[(&str, &Authority)] = &[("mesh.example", &ROOT)];
    let web = ROOT.issue(&id("web"), DAY).unwrap();
    let peer = judge(&numbered(1, ours, &[]), &web).unwrap();
    assert_eq!(numbered(2, ours, &[]).still_trusts(&peer), Ok(()));
    let list = ROOT
        .revoke(&[&web.serial], SystemTime::now() + DAY)
        .unwrap();
    assert_eq!(
        numbered(2, ours, &[list]).still_trusts(&peer),
        Err(Untrusted::Revoked)
    );
    let new = root("mesh.example");
    let replaced = numbered(2, &[("mesh.example", &new)], &[]);
    assert_eq!(
        replaced.still_trusts(&peer),
        Err(Untrusted::UnknownAuthority)
    );
    let gone = numbered(2, &[("partner.example", &new)], &[]);
    assert_eq!(
        gone.still_trusts(&peer),
        Err(Untrusted::UnknownDomain(id("web")))
    );
}

#[test]
fn a_connection_may_outlive_its_certificate() {
    let now = SystemTime::now();
    let old = Authority::since(now - 3 * DAY, "mesh.example", "old", 10 * DAY).unwrap();
    let ours: &[(&str, &Authority)] = &[("mesh.example", &old)];
    let web = old
        .sign(workload(&[id("web").as_str()], now - 2 * DAY, DAY).unwrap())
        .unwrap();
    let then = UnixTime::since_unix_epoch(since_epoch(now - 3 * DAY / 2));
    let first = numbered(1, ours, &[]);
    let peer = judged(&first, &chain(&web), Role::Client, then).unwrap();
    let next = numbered(2, ours, &[]);
    assert_eq!(judge(&next, &web).unwrap_err(), Untrusted::Expired);
    assert_eq!(next.still_trusts(&peer), Ok(()));
    let list = old.revoke(&[&web.serial], now + DAY).unwrap();
    assert_eq!(
        numbered(3, ours, &[list]).still_trusts(&peer),
        Err(Untrusted::Revoked)
    );
}

#[test]
fn who_is_known_costs_no_second_copy() {
    let (trust, web) = (own(), ROOT.issue(&id("web"), DAY).unwrap());
    let (first, again) = (judge(&trust, &web).unwrap(), judge(&trust, &web).unwrap());
    assert!(Arc::ptr_eq(&first, &again));
    let server = judged(&trust, &chain(&web), Role::Server, UnixTime::now()).unwrap();
    assert!(
        !Arc::ptr_eq(&first, &server),
        "a caller is not judged as a callee"
    );
}
