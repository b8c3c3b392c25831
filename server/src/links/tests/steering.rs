//! Does an operator's word hold, and does the broker come to its end?

use super::*;

#[tokio::test]
async fn a_link_that_is_taken_down_stays_down_until_it_is_taken_up() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let mut dc1 = Plan { links: vec![link("noc1", noc1.address)], ..plan("dc1") }.start(&world).await;
    noc1.opened().await;
    dc1.opened().await;
    // At the accepting side: the link ends, and the dialler is refused.
    noc1.links.down("dc1").unwrap();
    noc1.links.down("dc1").unwrap();
    assert!(noc1.closed().await.starts_with("link-down: an operator took the link to dc1 down at noc1"));
    assert!(dc1.closed().await.contains("link-down"));
    dc1.until("a refusal", |side| {
        side.status("noc1").last_error.is_some_and(|e| e.contains("refused by the other side: link-down"))
    })
    .await;
    let status = noc1.status("dc1");
    assert_eq!((status.state, status.admin_down), (LinkState::Down, true));
    assert_eq!(noc1.links.alarms(), [], "it is so on purpose");
    assert_eq!(dc1.status("noc1").state, LinkState::Refused);
    noc1.links.up("dc1").unwrap();
    noc1.opened().await;
    dc1.opened().await;
    // At the dialling side: it does not dial; taken up it does at once.
    dc1.links.down("noc1").unwrap();
    assert!(noc1.closed().await.contains("an operator took the link to noc1 down at dc1"));
    assert!(dc1.closed().await.starts_with("link-down"));
    dc1.links.up("noc1").unwrap();
    noc1.opened().await;
    dc1.opened().await;
    assert_eq!(dc1.status("noc1").state, LinkState::Up);
}

#[tokio::test]
async fn a_name_that_nobody_has_is_an_error_that_lists_the_others() {
    let world = World::new();
    let noc1 = plan("noc1").start(&world).await;
    let error = noc1.links.down("dc7").unwrap_err().to_string();
    assert_eq!(error, "there is no broker `dc7` to link; there is: dc1, noc2");
    assert!(noc1.links.up("noc1").is_err());
    // One of the list that was never seen can be taken down before it comes.
    noc1.links.down("noc2").unwrap();
    let mut raw = dial_with(&world, &world.broker("noc2"), &noc1, "noc1").await;
    raw.say(&Head::Hello(hello("noc2"))).await;
    assert_eq!(raw.refused().await.code, "link-down");
}

#[tokio::test]
async fn stopping_ends_all_links_with_a_word() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let (mut raw, _opened) = good(&world, &mut noc1).await;
    let listening = tokio::spawn(async move { raw.refused().await });
    timeout(LIMIT, noc1.links.stop()).await.expect("in bounded time");
    assert_eq!(listening.await.unwrap().code, "draining");
    assert!(noc1.closed().await.starts_with("draining"));
}

#[tokio::test]
async fn a_neighbour_that_comes_back_is_dialled_until_it_is_there() {
    let world = World::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dc1 = Plan { links: vec![link("noc1", free)], ..plan("dc1") }.start(&world).await;
    dc1.until("an error", |side| side.status("noc1").last_error.is_some_and(|e| e.contains("refused"))).await;
    let files = world.broker("noc1");
    let tls = tls::link_server_config(&files.certificate, &files.key, &world.ca()).unwrap();
    let listener = TcpListener::bind(free).await.unwrap();
    let (tcp, _) = timeout(LIMIT, listener.accept()).await.expect("another try").unwrap();
    let mut raw = Raw::new(tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await.unwrap());
    assert_eq!(raw.greeted().await.name, name("dc1"));
    raw.say(&Head::Hello(hello("noc1"))).await;
    dc1.until("up", |side| side.status("noc1").state == LinkState::Up).await;
}

#[test]
fn a_neighbour_is_dialled_only_while_there_is_no_link_whoever_made_it() {
    let dc1 = name("dc1");
    let links = [link("dc1", ([127, 0, 0, 1], 1).into())];
    let roster = roster::Roster::new(&name("noc1"), &links, 0);
    let open = |number: u64| {
        let (outbox, _reader) = crate::broker::mesh::lanes::lanes(1024);
        roster.open(&dc1, crate::broker::event::LinkId(number), outbox, ([127, 0, 0, 1], 2).into(), 0, 0)
    };
    let close = |number: u64| {
        roster.closed(&dc1, crate::broker::event::LinkId(number), Duration::ZERO, "superseded", None, 0);
    };
    assert!(roster.is_wanted(&dc1));
    // Two at once, of which the newer is used: dialling again would end that one in turn, and so for ever.
    let (first, second) = (open(1).unwrap(), open(2).unwrap());
    assert_eq!((first.end.cost, second.end.cost), (7, 7));
    close(1);
    assert!(!roster.is_wanted(&dc1));
    close(2);
    assert!(roster.is_wanted(&dc1));
    roster.steer(&dc1, true, 0);
    assert!(!roster.is_wanted(&dc1));
    assert_eq!(open(3).unwrap_err().code, Code::LinkDown);
    roster.steer(&dc1, false, 0);
    assert!(roster.is_wanted(&dc1));
}

#[tokio::test]
async fn of_two_connections_dialled_at_once_both_sides_use_the_same() {
    let world = World::new();
    let (a, b) = (plan("dc1").start(&world).await, plan("noc1").start(&world).await);
    let nonce = |side: &Side, dialled: Option<&str>| side.links.0.hello(dialled.map(name).as_ref(), 0).nonce;
    // Each dials, then each accepts: the counters have gone the same way.
    let (dialled_by_a, dialled_by_b) = (nonce(&a, Some("noc1")), nonce(&b, Some("dc1")));
    let (accepted_by_a, accepted_by_b) = (nonce(&a, None), nonce(&b, None));
    assert_ne!(dialled_by_a + accepted_by_b, dialled_by_b + accepted_by_a);
    // Any later one is newer than both.
    let later = nonce(&a, Some("noc1")) + nonce(&b, None);
    assert!(later > dialled_by_a + accepted_by_b && later > dialled_by_b + accepted_by_a);
}

#[test]
fn whoever_knocks_again_and_again_is_one_alarm() {
    let roster = roster::Roster::new(&name("noc1"), &[], 0);
    let from = std::net::IpAddr::from([192, 0, 2, 7]);
    let knocks = ["too-large: a head of 4711 bytes", "no TLS", "too-large: a head of 12 bytes"];
    let news: Vec<bool> = knocks.iter().cycle().take(9).map(|text| roster.stranger(from, text, 1)).collect();
    assert_eq!(
        news,
        [true, true, false, false, false, false, false, false, false],
        "what differs in a number is not news"
    );
    let alarms = roster.alarms(2);
    assert_eq!(alarms.len(), 1);
    assert_eq!((alarms[0].about.as_str(), alarms[0].text.as_str()), ("192.0.2.7", knocks[2]));
    assert!(roster.stranger(from, "no TLS", 600_002), "forgotten in the meantime");
}
