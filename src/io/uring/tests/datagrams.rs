//! Datagrams.

use std::net::UdpSocket;

use super::*;

/// A socket of the driver's, where it is, and a far end that talks to it.
fn sockets(driver: &mut Uring, ip: &str) -> (Handle, SocketAddr, UdpSocket) {
    let near = UdpSocket::bind((ip, 0)).unwrap();
    let addr = near.local_addr().unwrap();
    // Twice what it is otherwise, if no more.
    rustix::net::sockopt::set_socket_recv_buffer_size(&near, 1 << 20).unwrap();
    let far = UdpSocket::bind((ip, 0)).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (driver.adopt(near.into()), addr, far)
}

/// The next datagrams, in order.
fn receive(driver: &mut Uring, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    reap(driver, count)
        .into_iter()
        .map(|completion| match completion.outcome {
            Outcome::ReceivedFrom {
                result: Ok(datagram),
                more: true,
            } => (datagram.from, datagram.bytes.to_vec()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn datagrams_of_any_length_come_in_order_with_their_source_and_are_answered() {
    for features in all_masks() {
        for ip in ["127.0.0.1", "::1"] {
            let mut driver = Uring::new(config(features)).unwrap();
            let (socket, to, far) = sockets(&mut driver, ip);
            driver.submit(OWNER, Op::RecvFrom { socket: socket.clone() });
            let sent: Vec<Vec<u8>> = [1, 16, 1500, crate::io::DATAGRAM_LEN_MAX]
                .iter()
                .map(|len| vec![*len as u8; *len])
                .collect();
            for datagram in &sent {
                far.send_to(datagram, to).unwrap();
            }
            let mut replies = Datagrams::default();
            for ((from, bytes), expected) in receive(&mut driver, sent.len()).into_iter().zip(&sent) {
                assert_eq!(from, far.local_addr().unwrap());
                assert_eq!(&bytes, expected);
                replies.push(from, &bytes);
            }
            driver.send_datagrams(&socket, &mut replies);
            assert!(replies.is_empty());
            for expected in &sent {
                let mut buffer = [0; 4096];
                let (len, from) = far.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..len], from), (&expected[..], to));
            }
            assert_eq!(driver.counters().datagrams_unsent, 0);
            assert_eq!(driver.in_flight(), 1, "the receive is still armed");
        }
    }
}

#[test]
fn datagram_that_is_too_long_is_dropped_and_counted_and_those_behind_it_come() {
    let mut driver = driver();
    let (socket, to, far) = sockets(&mut driver, "127.0.0.1");
    driver.submit(OWNER, Op::RecvFrom { socket });
    // By one byte, by what the room for an address leaves, and by far.
    for len in [crate::io::DATAGRAM_LEN_MAX + 1, 2 * crate::io::DATAGRAM_LEN_MAX, 60_000] {
        far.send_to(&vec![7; len], to).unwrap();
    }
    far.send_to(b"short", to).unwrap();
    let completions = reap(&mut driver, 4);
    for completion in &completions[..3] {
        let Outcome::ReceivedFrom { result, more: true } = &completion.outcome else {
            panic!("{completion:?}");
        };
        assert_eq!(result.as_ref().err(), Some(&Errno::MSGSIZE));
    }
    let Outcome::ReceivedFrom { result: Ok(last), .. } = &completions[3].outcome else {
        panic!("{completions:?}");
    };
    assert_eq!(&last.bytes[..], b"short");
    assert_eq!(driver.counters().datagrams_too_long, 3);
}

#[test]
fn more_datagrams_than_buffers_end_the_receive_and_the_rest_waits_in_the_socket() {
    let mut driver = driver();
    let (socket, to, far) = sockets(&mut driver, "127.0.0.1");
    driver.submit(OWNER, Op::RecvFrom { socket: socket.clone() });
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    // Small ones, which the socket has room for.
    let count = usize::from(super::super::datagrams::BUFS) + 10;
    for number in 0..count {
        far.send_to(&(number as u32).to_be_bytes(), to).unwrap();
    }
    let mut numbers = Vec::new();
    let mut held = Vec::new();
    let mut ended = false;
    while !ended {
        for completion in reap(&mut driver, 1) {
            match completion.outcome {
                Outcome::ReceivedFrom {
                    result: Ok(datagram), ..
                } => held.push(datagram),
                Outcome::ReceivedFrom {
                    result: Err(Errno::NOBUFS),
                    more: false,
                } => ended = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(driver.counters().recv_starved, 1);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    numbers.extend(held.drain(..).map(|datagram| number(&datagram.bytes)));
    driver.submit(OWNER, Op::RecvFrom { socket });
    let rest = receive(&mut driver, count - numbers.len());
    numbers.extend(rest.iter().map(|(_, bytes)| number(bytes)));
    assert_eq!(numbers, (0..count as u32).collect::<Vec<_>>());
}

#[test]
fn datagram_that_cannot_be_sent_holds_up_none_of_the_others() {
    let mut driver = driver();
    let (socket, _, far) = sockets(&mut driver, "127.0.0.1");
    let to = far.local_addr().unwrap();
    let mut batch = Datagrams::default();
    batch.push(to, b"first");
    // Port 0, another family, and one that is longer than a datagram may be.
    batch.push(SocketAddr::from(([127, 0, 0, 1], 0)), b"nowhere");
    batch.push("[::1]:9".parse().unwrap(), b"elsewhere");
    batch.push(to, &vec![0; 70_000]);
    // More than fit into one call.
    for number in 0..200_u32 {
        batch.push(to, &number.to_be_bytes());
    }
    driver.send_datagrams(&socket, &mut batch);
    assert_eq!(driver.counters().datagrams_unsent, 3);
    let mut buffer = [0; 64];
    let len = far.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"first");
    for number in 0..200_u32 {
        let len = far.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], number.to_be_bytes());
    }
}

#[test]
fn receive_of_datagrams_that_is_cancelled_ends() {
    let mut driver = driver();
    let (socket, _, _far) = sockets(&mut driver, "127.0.0.1");
    let token = driver.submit(OWNER, Op::RecvFrom { socket });
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    driver.cancel(token);
    let end = reap(&mut driver, 1).remove(0);
    assert!(matches!(
        end.outcome,
        Outcome::ReceivedFrom {
            result: Err(Errno::CANCELED),
            more: false
        }
    ));
    assert_eq!(driver.in_flight(), 0);
}

#[test]
fn datagram_of_nothing_is_one_too_but_ends_the_receive() {
    let mut driver = driver();
    let (socket, to, far) = sockets(&mut driver, "127.0.0.1");
    driver.submit(OWNER, Op::RecvFrom { socket: socket.clone() });
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    far.send_to(b"", to).unwrap();
    far.send_to(b"behind it", to).unwrap();
    let Outcome::ReceivedFrom {
        result: Ok(datagram),
        more: false,
    } = reap(&mut driver, 1).remove(0).outcome
    else {
        panic!("not the empty one");
    };
    assert_eq!((datagram.from, datagram.bytes.len()), (far.local_addr().unwrap(), 0));
    driver.submit(OWNER, Op::RecvFrom { socket });
    assert_eq!(receive(&mut driver, 1)[0].1, b"behind it");
}

#[test]
fn receive_of_once_gives_what_is_there_and_ends() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    far.write_all(b"GET").unwrap();
    driver.submit(OWNER, Op::RecvOnce { socket: socket.clone() });
    let Outcome::Received {
        result: Ok(Received::Data(bytes)),
        more: false,
    } = reap(&mut driver, 1).remove(0).outcome
    else {
        panic!("not received");
    };
    assert_eq!(&bytes[..], b"GET");
    assert_eq!(driver.in_flight(), 0);
    // Half of it is ended: the far end hears that, and may go on.
    driver.shutdown(&socket, Ending::Half);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
    far.write_all(b"more").unwrap();
    drop(far);
    driver.submit(OWNER, Op::RecvOnce { socket: socket.clone() });
    let outcome = reap(&mut driver, 1).remove(0).outcome;
    assert!(matches!(outcome, Outcome::Received { result: Ok(Received::Data(bytes)), .. } if *bytes == *b"more"));
    driver.submit(OWNER, Op::RecvOnce { socket });
    let outcome = reap(&mut driver, 1).remove(0).outcome;
    assert!(matches!(
        outcome,
        Outcome::Received {
            result: Ok(Received::Eof),
            ..
        }
    ));
}

#[test]
fn brief_connections_take_no_place_in_the_file_table() {
    let mut driver = driver();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let listener = driver.adopt_listener(listener.into());
    driver.submit(OWNER, Op::Accept { listener, brief: true });
    let mut far = TcpStream::connect(to).unwrap();
    let Outcome::Accepted { result, .. } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("not accepted");
    };
    let socket = result.unwrap().socket;
    assert_eq!(socket.slot(), None);
    drop(socket);
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "closed with its last handle");
}
