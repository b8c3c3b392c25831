//! Who is taken, who is refused, and does everybody hear why?

use super::*;
use crate::gate::Counts;

#[tokio::test]
async fn two_brokers_link_and_each_knows_the_other() {
    let world = World::new();
    let mut a = plan("noc1").start(&world).await;
    let mut b = Plan { links: vec![link("noc1", a.address)], ..plan("dc1") }.start(&world).await;
    let (at_a, at_b) = (a.opened().await, b.opened().await);
    assert_eq!((at_a.hello.name.as_str(), at_b.hello.name.as_str()), ("dc1", "noc1"));
    assert_eq!(at_a.nonce, at_b.nonce);
    assert_eq!((at_a.end.cost, at_b.end.cost), (1, 7));
    assert_eq!((at_b.hello.instance, at_b.hello.max_body), (3, 200_000));
    for (side, peer) in [(&a, "dc1"), (&b, "noc1")] {
        let status = side.status(peer);
        assert_eq!((status.state, status.last_error), (LinkState::Up, None));
        assert!(side.links.alarms().is_empty());
    }
}

/// One hello each, over one TLS identity each; what is said, and the listener works on.
#[tokio::test]
async fn whoever_is_not_one_of_us_is_refused_and_told_why() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let dc1 = world.broker("dc1");
    let client = world.issue("dc1.demo.muster", &[Usage::ClientAuth]);
    let wildcard = world.issue("*.demo.muster", &[Usage::ServerAuth, Usage::ClientAuth]);
    let stranger = world.broker("dc9");
    let said = |change: fn(&mut Hello)| {
        let mut hello = hello("dc1");
        change(&mut hello);
        hello
    };
    let cases = [
        (&dc1, said(|h| (h.oldest, h.newest) = (NEWEST + 1, NEWEST + 3)), "bad-version", "upgrade the older"),
        (&dc1, said(|h| (h.oldest, h.newest) = (0, OLDEST - 1)), "bad-version", "no version in common"),
        (&dc1, said(|h| h.cluster = "other".into()), "wrong-cluster", "noc1 is of cluster demo"),
        (&dc1, said(|h| h.name = name("noc1")), "name-in-use", "at 127.0.0.1 and by the one at 127.0.0.1"),
        (&dc1, said(|h| h.name = name("noc2")), "wrong-identity", "its certificate is for dc1.demo.muster"),
        (&wildcard, hello("dc1"), "wrong-identity", "give it one for dc1.demo.muster"),
        (&client, hello("dc1"), "wrong-identity", "is not a broker's"),
        (&stranger, said(|h| h.name = name("dc9")), "unknown-broker", "add [brokers.dc9] there"),
        // The order: what is wrong with the version is said even of another cluster.
        (&dc1, said(|h| (h.cluster, h.oldest, h.newest) = ("x".into(), 9, 9)), "bad-version", "no version"),
    ];
    for (files, hello, code, text) in cases {
        let mut raw = dial_with(&world, files, &noc1, "noc1").await;
        raw.say(&Head::Hello(hello)).await;
        let refused = raw.refused().await;
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.text.contains(text), "{refused:?}");
        assert_eq!(raw.hear().await.unwrap_err(), "closed");
        noc1.until_alarm(text).await;
    }
    good(&world, &mut noc1).await;
    // Whoever came from there is one of us after all.
    assert_eq!(noc1.links.alarms(), []);
}

#[tokio::test]
async fn certificates_of_another_ca_are_refused_on_both_sides() {
    let (world, foreign) = (World::new(), World::of("Muster CA of another"));
    let mut noc1 = plan("noc1").start(&world).await;
    // It trusts our CA, but its own certificate is of another.
    let mut raw = dial_with(&world, &foreign.broker("dc1"), &noc1, "noc1").await;
    let _ = raw.stream.write_all(b"x").await;
    let error = raw.hear().await.unwrap_err();
    assert!(error.contains("UnknownCA"), "{error}");
    noc1.until_alarm("UnknownIssuer").await;
    // A broker of another CA that dials.
    let dc1 = Plan { links: vec![link("noc1", noc1.address)], ..plan("dc1") }.start(&foreign).await;
    dc1.until("an error", |side| side.status("noc1").last_error.is_some()).await;
    let error = dc1.status("noc1").last_error.unwrap();
    assert!(error.contains("UnknownIssuer") && error.contains("certificate for noc1.demo.muster"), "{error}");
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn the_dialling_side_hears_that_its_certificate_is_not_taken() {
    let world = World::new();
    // Another CA, of another name and of the same one.
    for foreign in [World::of("Muster CA of another"), World::new()] {
        let noc1 = plan("noc1").start(&world).await;
        // It trusts ours too: all that is wrong is found by the other side.
        let both = std::fs::read_to_string(world.ca()).unwrap() + &std::fs::read_to_string(foreign.ca()).unwrap();
        std::fs::write(foreign.ca(), both).unwrap();
        let dc1 = Plan { links: vec![link("noc1", noc1.address)], ..plan("dc1") }.start(&foreign).await;
        dc1.until("an error", |side| side.status("noc1").last_error.is_some()).await;
        let error = dc1.status("noc1").last_error.unwrap();
        assert!(error.contains("does not accept this broker's certificate"), "{error}");
        noc1.until_alarm("brokers link with certificates of the cluster's CA").await;
    }
}

/// A listener that shows `files` and answers each connection with `answer`; what it hears after its own word.
async fn answering(world: &World, files: &Files, answer: Head) -> (SocketAddr, mpsc::Receiver<Result<Head, String>>) {
    let tls = tls::link_server_config(&files.certificate, &files.key, &world.ca()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pass, heard) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(tcp).await else { continue };
            let mut raw = Raw::new(stream);
            raw.greeted().await;
            raw.say(&answer).await;
            let said = raw.hear().await.map(|(head, _)| head);
            if pass.send(said).await.is_err() {
                return;
            }
        }
    });
    (address, heard)
}

#[tokio::test]
async fn the_dialling_side_checks_who_answers() {
    let world = World::new();
    let said = |name_: &str, change: fn(&mut Hello)| {
        let mut hello = hello(name_);
        change(&mut hello);
        Head::Hello(hello)
    };
    let both = [Usage::ServerAuth, Usage::ClientAuth];
    let noc1 = world.issue("noc1.demo.muster", &both);
    let server = world.issue("noc1.demo.muster", &[Usage::ServerAuth]);
    for (files, answer, code, text) in [
        (&noc1, said("noc1", |h| h.cluster = "other".into()), "wrong-cluster", "correct the address"),
        (&noc1, said("noc1", |h| h.newest = 0), "bad-version", "no version in common"),
        (&noc1, said("dc1", |_| ()), "name-in-use", "the name dc1 is in use"),
        (&noc1, said("noc2", |_| ()), "wrong-identity", "dc1 dialled noc1 at 127.0.0.1, and noc2 answered"),
        (&server, said("noc1", |_| ()), "wrong-identity", "is not a broker's"),
        (&noc1, Head::Ping(muster_protocol::link::Beat { tick: 1 }), "bad-frame", "must be HELLO"),
    ] {
        let (address, mut heard) = answering(&world, files, answer).await;
        let dc1 = Plan { links: vec![link("noc1", address)], ..plan("dc1") }.start(&world).await;
        match timeout(LIMIT, heard.recv()).await.expect("in time") {
            Some(Ok(Head::Refused(refused))) => {
                assert_eq!(refused.code, code, "{refused:?}");
                assert!(refused.text.contains(text), "{refused:?}");
            }
            other => panic!("{code}: {other:?}"),
        }
        dc1.until(code, |side| side.status("noc1").state == LinkState::Refused).await;
        assert!(dc1.status("noc1").last_error.unwrap().contains(text));
        dc1.until_alarm(text).await;
    }
}

#[tokio::test]
async fn a_name_is_verified_whatever_address_was_dialled() {
    let world = World::new();
    // At noc1's address somebody with the certificate of noc2 listens.
    let noc2 = plan("noc2").start(&world).await;
    let dc1 = Plan { links: vec![link("noc1", noc2.address)], ..plan("dc1") }.start(&world).await;
    dc1.until("an error", |side| side.status("noc1").last_error.is_some()).await;
    let error = dc1.status("noc1").last_error.unwrap();
    assert!(error.contains("noc1.demo.muster") && error.contains("noc2.demo.muster"), "{error}");
}

#[tokio::test]
async fn a_broker_that_is_not_listed_is_not_dialled_until_it_is() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let unlisting = Plan { links: vec![link("noc1", noc1.address)], brokers: vec!["dc1"], ..plan("dc1") };
    let mut dc1 = unlisting.start(&world).await;
    dc1.until_alarm("add [brokers.noc1]").await;
    dc1.policy.send_replace(policy(&["noc1", "dc1"]));
    assert_eq!(dc1.opened().await.hello.name, name("noc1"));
    assert_eq!(noc1.opened().await.hello.name, name("dc1"));
    // Both policies hold for the link: it ends as soon as one of them does not list the other side.
    noc1.policy.send_replace(policy(&["noc1"]));
    assert!(noc1.closed().await.contains("unknown-broker"));
    assert!(dc1.closed().await.contains("unknown-broker"));
    dc1.until("refused", |side| side.status("noc1").state == LinkState::Refused).await;
}

#[tokio::test]
async fn whoever_says_nothing_is_let_go_and_takes_a_place_only_so_long() {
    let world = World::new();
    let hello_time = Duration::from_millis(300);
    let mut noc1 = Plan { hello: hello_time, pending: 2, ..plan("noc1") }.start(&world).await;
    let mut silent = TcpStream::connect(noc1.address).await.unwrap();
    let mut no_hello = dial_with(&world, &world.broker("dc1"), &noc1, "noc1").await;
    // All places are taken: the next one is dropped without a word.
    let mut third = TcpStream::connect(noc1.address).await.unwrap();
    assert_eq!(timeout(LIMIT, third.read(&mut [0; 1])).await.expect("in time").unwrap_or(0), 0);
    let refused = no_hello.refused().await;
    assert_eq!((refused.code.as_str(), refused.text.as_str()), ("auth-timeout", "no HELLO in time"));
    assert_eq!(timeout(LIMIT, silent.read(&mut [0; 1])).await.expect("in time").unwrap_or(0), 0);
    drop((silent, no_hello));
    noc1.until("free places", |side| side.links.0.gate.counts() == Counts::default()).await;
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn what_is_no_link_at_all_ends_and_is_named() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    for (bytes, text) in
        [(&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP"), (b"CONNECT\n\n\0", "STOMP"), (b"\x16junkjunk", "TLS failed")]
    {
        let mut tcp = TcpStream::connect(noc1.address).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, tcp.read_to_end(&mut rest)).await.expect("an end in time");
        noc1.until_alarm(text).await;
    }
    // Too long a HELLO, and none.
    for (bytes, code) in
        [(&[0, 0, 0x10, 0x01, 0, 0, 0, 0][..], "too-large"), (&[0, 0, 0, 1, 0, 0, 0, 0, 0x90], "bad-frame")]
    {
        let mut raw = dial_with(&world, &world.broker("dc1"), &noc1, "noc1").await;
        raw.write(bytes).await;
        assert_eq!(raw.refused().await.code, code);
    }
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn who_shows_no_certificate_or_speaks_an_old_tls_is_no_broker() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let address = noc1.address.to_string().parse().unwrap();
    // As an agent or an operator dials.
    let client = tls::client_config(&world.ca(), None).unwrap();
    let mut raw = Raw::new(dial::connect_as(&address, "noc1.demo.muster", &client, LIMIT).await.unwrap());
    let error = raw.hear().await.unwrap_err();
    assert!(error.contains("CertificateRequired"), "{error}");
    noc1.until_alarm("peer sent no certificates").await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(world.ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let refused = dial::connect_as(&address, "noc1.demo.muster", &Arc::new(old), LIMIT).await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
    good(&world, &mut noc1).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_but_links() {
    let world = World::new();
    let mut noc1 = plan("noc1").start(&world).await;
    let mut raw = dial_with(&world, &world.broker("dc1"), &noc1, "noc1").await;
    let mut off = hello("dc1");
    off.clock += 3_600_000;
    raw.say(&Head::Hello(off)).await;
    raw.greeted().await;
    noc1.opened().await;
    let skew = noc1.status("dc1").clock_skew_ms.unwrap();
    assert!((3_500_000..3_700_000).contains(&skew), "{skew}");
    noc1.until_alarm("set both by NTP").await;
}
