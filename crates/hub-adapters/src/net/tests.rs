use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn refused(policy: &NetPolicy, text: &str) -> bool {
    policy.check_url(&url(text)).is_err()
}

/// Every way to write an address that is not of the public internet.
const INSIDE: &[(&str, AddressKind)] = &[
    ("127.0.0.1", AddressKind::Loopback),
    ("127.255.255.254", AddressKind::Loopback),
    ("127.1", AddressKind::Loopback),
    ("2130706433", AddressKind::Loopback),
    ("0x7f000001", AddressKind::Loopback),
    ("0x7f.0.0.1", AddressKind::Loopback),
    ("0177.0.0.1", AddressKind::Loopback),
    ("017700000001", AddressKind::Loopback),
    ("127.0.0.1.", AddressKind::Loopback),
    ("%31%32%37.0.0.1", AddressKind::Loopback),
    ("\u{ff11}27.0.0.1", AddressKind::Loopback),
    ("127\u{3002}0\u{ff0e}0\u{ff61}1", AddressKind::Loopback),
    ("\u{2460}\u{2461}\u{2466}.0.0.1", AddressKind::Loopback),
    ("127.0.0.1..", AddressKind::Loopback),
    ("[::1]", AddressKind::Loopback),
    ("[0:0:0:0:0:0:0:1]", AddressKind::Loopback),
    ("[::ffff:127.0.0.1]", AddressKind::Loopback),
    ("[::ffff:7f00:1]", AddressKind::Loopback),
    ("[::127.0.0.1]", AddressKind::Loopback),
    ("[64:ff9b::7f00:1]", AddressKind::Loopback),
    ("[2002:7f00:1::]", AddressKind::Loopback),
    ("[2000::5efe:7f00:1]", AddressKind::Loopback),
    ("[::ffff:0:7f00:1]", AddressKind::Loopback),
    ("10.0.0.1", AddressKind::Private),
    ("10.1", AddressKind::Private),
    ("172.16.0.1", AddressKind::Private),
    ("172.31.255.255", AddressKind::Private),
    ("192.168.1.1", AddressKind::Private),
    ("0xc0a80101", AddressKind::Private),
    ("100.64.0.1", AddressKind::Private),
    ("100.127.255.255", AddressKind::Private),
    ("[fc00::1]", AddressKind::Private),
    ("[fd12:3456::1]", AddressKind::Private),
    ("[fec0::1]", AddressKind::Private),
    ("[::ffff:10.0.0.1]", AddressKind::Private),
    ("[64:ff9b::10.0.0.1]", AddressKind::Private),
    ("[2002:c0a8:0101::1]", AddressKind::Private),
    ("169.254.169.254", AddressKind::LinkLocal),
    ("168.63.129.16", AddressKind::LinkLocal),
    ("[::ffff:169.254.169.254]", AddressKind::LinkLocal),
    ("[64:ff9b::a9fe:a9fe]", AddressKind::LinkLocal),
    ("[2002:a9fe:a9fe::]", AddressKind::LinkLocal),
    ("[fe80::1]", AddressKind::LinkLocal),
    ("[febf::1]", AddressKind::LinkLocal),
    ("224.0.0.1", AddressKind::Multicast),
    ("239.255.255.255", AddressKind::Multicast),
    ("[ff02::1]", AddressKind::Multicast),
    ("0.0.0.0", AddressKind::Unspecified),
    ("0", AddressKind::Unspecified),
    ("[::]", AddressKind::Unspecified),
    ("[::ffff:0.0.0.0]", AddressKind::Unspecified),
    ("0.1.2.3", AddressKind::Reserved),
    ("192.0.0.1", AddressKind::Reserved),
    ("192.0.2.1", AddressKind::Reserved),
    ("192.88.99.1", AddressKind::Reserved),
    ("198.18.0.1", AddressKind::Reserved),
    ("198.19.255.255", AddressKind::Reserved),
    ("198.51.100.1", AddressKind::Reserved),
    ("203.0.113.1", AddressKind::Reserved),
    ("255.255.255.255", AddressKind::Reserved),
    ("240.0.0.1", AddressKind::Reserved),
    ("[64:ff9b:1::1]", AddressKind::Reserved),
    ("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", AddressKind::Reserved),
    ("[2001:db8::1]", AddressKind::Reserved),
    ("[100::1]", AddressKind::Reserved),
    ("[3fff::1]", AddressKind::Reserved),
    ("[5f00::1]", AddressKind::Reserved),
    ("[4000::1]", AddressKind::Reserved),
];

#[test]
fn addresses_inside_are_refused_however_they_are_written() {
    let (strict, private) = (NetPolicy::default(), NetPolicy::private());
    for (host, kind) in INSIDE {
        let url = url(&format!("http://{host}:8080/x"));
        let error = strict.check_url(&url).unwrap_err();
        match &error {
            NetError::Address { kind: found, .. } => assert_eq!(found, kind, "{host}"),
            other => panic!("{host}: {other:?}"),
        }
        let ours = matches!(kind, AddressKind::Loopback | AddressKind::Private);
        assert_eq!(private.check_url(&url).is_ok(), ours, "{host}");
        // Who is told of an option is helped by it.
        assert_eq!(error.to_string().contains("allowPrivate"), ours, "{error}");
    }
}

#[test]
fn names_of_this_machine_are_refused() {
    let names = [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost..",
        "localhost\u{3002}",
        "\u{ff4c}ocalhost",
        "a.localhost",
        "a.LOCALHOST.",
        "ip6-loopback",
        "localhost.localdomain",
    ];
    for name in names {
        assert!(refused(&NetPolicy::default(), &format!("http://{name}/")), "{name}");
        assert!(!refused(&NetPolicy::private(), &format!("http://{name}/")), "{name}");
    }
}

#[test]
fn the_public_internet_is_not() {
    let hosts = ["example.com", "localhost.example.com", "8.8.8.8", "172.32.0.1", "100.128.0.1", "[2606:4700::1111]"];
    for host in hosts.iter().chain(&["[64:ff9b::8.8.8.8]", "[::ffff:8.8.8.8]", "[2002:0808:0808::1]"]) {
        assert_eq!(NetPolicy::default().check_url(&url(&format!("https://{host}/"))), Ok(()), "{host}");
    }
}

#[test]
fn other_schemes_and_passwords_are_refused() {
    for text in ["file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "unix:/x"] {
        assert!(matches!(NetPolicy::default().check_url(&url(text)), Err(NetError::Scheme(_))), "{text}");
    }
    // What stands before an @ is no host, whatever it looks like.
    for text in ["https://u:hunter2@example.com/", "https://example.com@127.0.0.1/", "https://hunter2@example.com"] {
        let error = NetPolicy::private().check_url(&url(text)).unwrap_err();
        assert!(matches!(&error, NetError::Userinfo(_)) && !error.to_string().contains("hunter2"), "{error}");
    }
    for (text, host) in
        [("http:\\\\127.0.0.1\\@example.com/", "127.0.0.1"), ("http:127.0.0.1#@example.com/", "127.0.0.1")]
    {
        assert!(url(text).host_str() == Some(host) && refused(&NetPolicy::default(), text), "{text}");
    }
}

#[test]
fn hosts_and_networks_can_be_allowed() {
    let allow = |host: &str| NetPolicy { allow_private: false, allow_hosts: vec![host.to_owned()] };
    assert!(!refused(&allow("10.1.0.0/16"), "http://10.1.2.3/"));
    assert!(refused(&allow("10.1.0.0/16"), "http://10.2.0.1/"));
    assert!(!refused(&allow("169.254.169.254"), "http://169.254.169.254/"));
    assert!(!refused(&allow("LOCALHOST"), "http://localhost./"));
    assert!(!refused(&allow("::1"), "http://[::1]/"));
    assert!(allow("Build.lan").check_address("build.lan", "192.168.7.7".parse().unwrap()).is_ok());
    assert!(allow("build.lan").check_address("other.lan", "192.168.7.7".parse().unwrap()).is_err());
}

/// Answers one list of addresses after the other.
struct Changing(Mutex<VecDeque<Vec<IpAddr>>>);

impl Lookup for Changing {
    fn lookup(&self, _: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let next = self.0.lock().unwrap().pop_front().unwrap_or_default();
        async move { Ok(next) }.boxed()
    }
}

fn changing(answers: &[&[&str]]) -> Arc<Changing> {
    let parse = |list: &&[&str]| list.iter().map(|address| address.parse().unwrap()).collect();
    Arc::new(Changing(Mutex::new(answers.iter().map(parse).collect())))
}

#[tokio::test]
async fn each_answer_of_the_dns_is_checked() {
    let answers = changing(&[&["93.184.216.34"], &["127.0.0.1"], &["93.184.216.34", "10.0.0.1"], &[]]);
    let resolver = GuardedResolver::new(NetPolicy::default(), "api.example.com", answers);
    assert_eq!(resolver.addresses("api.example.com").await.unwrap().len(), 1);
    for _ in 0..2 {
        assert!(matches!(resolver.addresses("api.example.com").await, Err(NetError::Address { .. })));
    }
    assert!(matches!(resolver.addresses("API.example.com.").await, Err(NetError::Unresolved { .. })));
    assert!(matches!(resolver.addresses("evil.example").await, Err(NetError::Elsewhere { .. })));
}

/// The name is public when it is first looked at and this machine when it is connected to.
#[tokio::test]
async fn a_name_that_moves_inside_is_not_connected_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = changing(&[&["93.184.216.34"], &["127.0.0.1"], &["127.0.0.1"]]);
    let base = url(&format!("http://rebind.example:{port}/"));
    let policy = NetPolicy::default();
    let early = GuardedResolver::new(policy.clone(), "rebind.example", Arc::clone(&answers) as Arc<dyn Lookup>);
    early.addresses("rebind.example").await.unwrap();
    let settings = ClientSettings { lookup: answers, ..ClientSettings::default() };
    let client = client(&base, &policy, &settings).unwrap();
    let error = client.get(base.clone()).send().await.unwrap_err();
    let told = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
        .any(|e| e.to_string().contains("this machine"));
    assert!(told, "{error:?}");
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "something connected");
    // The same answers are fine where private addresses are.
    let lookup = changing(&[&["127.0.0.1"]]);
    let settings = ClientSettings { lookup, ..ClientSettings::default() };
    let client = super::client(&base, &NetPolicy::private(), &settings).unwrap();
    let (sent, accepted) = tokio::join!(
        tokio::time::timeout(std::time::Duration::from_millis(200), client.get(base).send()),
        tokio::time::timeout(std::time::Duration::from_millis(200), listener.accept()),
    );
    assert!(sent.is_err() && accepted.unwrap().is_ok());
}
