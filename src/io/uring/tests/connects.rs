//! Connections that we make.

use super::*;

#[test]
fn socket_connects_and_is_set_up_as_an_accepted_one_is() {
    let mut driver = driver();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let socket = driver.socket(addr).unwrap();
    assert!(rustix::net::sockopt::tcp_nodelay(socket.fd()).unwrap());
    driver.submit(
        OWNER,
        Op::Connect {
            socket: socket.clone(),
            addr,
        },
    );
    let completion = reap(&mut driver, 1).remove(0);
    assert!(matches!(completion.outcome, Outcome::Connected { result: Ok(()) }));
    let (mut far, peer) = listener.accept().unwrap();
    let near = rustix::net::getsockname(socket.fd()).unwrap();
    assert_eq!(SocketAddr::try_from(near).unwrap(), peer);
    let zero_copy = false;
    let batch = batch(b"hello");
    driver.submit(
        OWNER,
        Op::Send {
            socket,
            batch,
            zero_copy,
            last: false,
        },
    );
    reap(&mut driver, 1);
    let mut heard = [0; 5];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn socket_of_a_driver_that_is_bound_to_a_device_is_bound_to_it_or_is_none() {
    let mut driver = driver();
    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    driver.bind_to_device("lo");
    let socket = driver.socket(to).unwrap();
    assert_eq!(
        socket2::SockRef::from(socket.fd()).device().unwrap(),
        Some(b"lo".to_vec())
    );
    driver.bind_to_device("btd-no-such-de");
    assert_eq!(driver.socket(to).err(), Some(Errno::NODEV));
}

#[test]
fn socket_leaves_from_the_address_of_its_family_or_is_none() {
    let mut driver = driver();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    driver.leave_from(&["127.0.7.9".parse().unwrap()]);
    let socket = driver.socket(addr).unwrap();
    // Its port is not taken before it connects.
    let bound = SocketAddr::try_from(rustix::net::getsockname(socket.fd()).unwrap()).unwrap();
    assert_eq!(bound, "127.0.7.9:0".parse().unwrap());
    driver.submit(OWNER, Op::Connect { socket, addr });
    reap(&mut driver, 1);
    let (_far, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), bound.ip());
    let v6 = "[::1]:9".parse().unwrap();
    assert_eq!(driver.socket(v6).err(), Some(Errno::AFNOSUPPORT));
    // For examples only (RFC 5737): no machine has it.
    driver.leave_from(&["203.0.113.1".parse().unwrap()]);
    assert_eq!(driver.socket(addr).err(), Some(Errno::ADDRNOTAVAIL));
}

#[test]
fn connect_that_is_refused_or_cancelled_says_so() {
    let mut driver = driver();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = driver.socket(closed).unwrap();
    driver.submit(OWNER, Op::Connect { socket, addr: closed });
    let completion = reap(&mut driver, 1).remove(0);
    let Outcome::Connected { result } = completion.outcome else {
        panic!("not a connect");
    };
    assert_eq!(result, Err(Errno::CONNREFUSED));
    // A listener whose line is full answers nobody.
    let full = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&full, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let addr = SocketAddr::try_from(rustix::net::getsockname(&full).unwrap()).unwrap();
    let _waiting = TcpStream::connect(addr).unwrap();
    let socket = driver.socket(addr).unwrap();
    let token = driver.submit(OWNER, Op::Connect { socket, addr });
    let mut out = Vec::new();
    driver.turn(Wait::POLL, &mut out).unwrap();
    assert!(out.is_empty(), "{out:?}");
    driver.cancel(token);
    let completion = reap(&mut driver, 1).remove(0);
    let Outcome::Connected { result } = completion.outcome else {
        panic!("not a connect");
    };
    assert_eq!(result, Err(Errno::CANCELED));
    assert_eq!(driver.in_flight(), 0);
}
