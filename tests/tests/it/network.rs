//! The network by grant: what is granted of it, in all generations of WASI, and no more.

use std::{io::Read, net::TcpListener};

use stagehost_tests::{Place, guests::built};

use crate::grants::{guest, run};

/// A listener on the loopback address, which takes connections until it is dropped.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    (listener, port)
}

#[test]
fn the_network_is_what_is_granted_of_it() {
    let place = Place::new();
    let (_listener, port) = listener();
    let digits = port.to_string();
    for generation in ["p2", "p3"] {
        let connect = guest(&place, &format!("{generation}-connect"));
        for grant in [
            format!("tcp:127.0.0.1:{port}"),
            format!("127.0.0.1:{port}"),
            format!("localhost:{port}"),
            "127.0.0.1:*".into(),
        ] {
            run(&place, &connect, &[&digits], &format!(r#"{{"net": ["{grant}"]}}"#)).code(0).is_quiet();
        }
        let nothing = run(&place, &connect, &[&digits], "{}");
        let code = nothing.status.code();
        assert!(code.is_some_and(|code| code >= 60), "{generation}: {code:?}");
        nothing.says(&["tried to use the network, which is not granted", "stages[0].grants.net"]);
        let other = run(&place, &connect, &[&digits], r#"{"net": ["127.0.0.1:1", "udp:127.0.0.1:*"]}"#);
        let code = other.status.code();
        assert!(code.is_some_and(|code| (30..60).contains(&code)), "{generation}: {code:?}");
        other.says(&[&format!("tcp:127.0.0.1:{port}"), "which is not granted"]);
    }
    // Preview1 has no sockets; a program of the standard library says what it is told.
    let std = built("std-probe-p2.wasm").display().to_string();
    let address = format!("127.0.0.1:{port}");
    let output = run(&place, &std, &["connect", &address], "{}").code(0);
    assert!(output.stdout_text().contains("PermissionDenied"), "{output}");
    run(&place, &std, &["connect", &address], &format!(r#"{{"net": ["{address}"]}}"#)).code(0).prints("Ok(())\n");
    let std = built("std-probe-p1.wasm").display().to_string();
    let output = run(&place, &std, &["connect", &address], &format!(r#"{{"net": ["{address}"]}}"#)).code(0);
    assert!(output.stdout_text().contains("Unsupported"), "{output}");
}

#[test]
fn what_is_granted_can_be_bound_and_no_warning_names_what_is_refused() {
    let place = Place::new();
    let std = built("std-probe-p2.wasm").display().to_string();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let bind = |address: &str, grant: &str| {
        run(&place, &std, &["bind", address], &format!(r#"{{"net": ["{grant}"]}}"#)).code(0)
    };
    for address in [format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}")] {
        bind(&address, &format!("udp:{address}")).prints("Ok(())\n");
        // The remedy that is named is one.
        let denied =
            bind(&address, "udp:127.0.0.1:1").says(&[&format!("add \"udp:{address}\" to `stages[0].grants.net`")]);
        assert!(denied.stdout_text().contains("PermissionDenied"), "{denied}");
    }
    let grant = format!(r#"{{"net": ["tcp:127.0.0.1:{port}"]}}"#);
    let listens = run(&place, &std, &["listen", &format!("127.0.0.1:{port}")], &grant).code(0);
    listens.says(&["tried to listen at tcp:127.0.0.1", "which no stage may"]);
}

#[test]
fn datagrams_are_granted_apart() {
    let place = Place::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address").to_string();
    let std = built("std-probe-p2.wasm").display().to_string();
    run(&place, &std, &["send", &address], &format!(r#"{{"net": ["udp:{address}"]}}"#)).code(0).prints("Ok(5)\n");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    let mut bytes = [0; 16];
    assert_eq!(socket.recv(&mut bytes).expect("what was sent"), 5);
    for grants in
        [format!(r#"{{"net": ["tcp:{address}"]}}"#), format!(r#"{{"net": ["tcp:{address}", "udp:127.0.0.1:1"]}}"#)]
    {
        let output = run(&place, &std, &["send", &address], &grants).code(0);
        assert!(output.stdout_text().starts_with("Err("), "{output}");
    }
}

#[test]
fn names_are_looked_up_by_grant_and_pinned() {
    let place = Place::new();
    for generation in ["p2", "p3"] {
        let lookup = guest(&place, &format!("{generation}-lookup"));
        run(&place, &lookup, &["localhost"], r#"{"net": ["localhost:80"]}"#).code(1);
        let denied = run(&place, &lookup, &["localhost"], "{}");
        let code = denied.status.code();
        denied.says(&["tried to look up localhost", "\"localhost:PORT\""]);
        // What a guest names is shown, not sent.
        run(&place, &lookup, &["\u{1b}[31mred"], "{}").says(&["is no name"]);
        // What cannot be a name is told apart from one that is not granted, and an address is one however it is written.
        let bad = run(&place, &lookup, &["no name"], "{}").status.code();
        assert!(bad.is_some_and(|bad| bad > 40) && bad != code, "{generation}: {bad:?}");
        run(&place, &lookup, &["[::1]"], r#"{"net": ["localhost:80"]}"#).code(1);
    }
}

#[test]
fn a_connection_that_is_not_granted_never_reaches_anybody() {
    let place = Place::new();
    let (listener, port) = listener();
    listener.set_nonblocking(true).expect("it is ours");
    for generation in ["p2", "p3"] {
        let connect = guest(&place, &format!("{generation}-connect"));
        // Not even a socket is made.
        run(&place, &connect, &[&port.to_string()], "{}").says(&["tried to use the network, which is not granted"]);
    }
    let nobody = listener.accept().map(|(mut peer, _)| peer.read(&mut [0; 1]).is_ok());
    assert!(nobody.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}
