//! Buffers that are lent to sockets (`SENDMSG_ZC`).

use super::*;

/// A batch of `head` and a whole buffer, sent with zero copy.
fn lend(driver: &mut Uring, socket: Handle) {
    let mut batch = batch(b"head");
    batch.push_buffer(Rc::new(driver.pool().take().unwrap()), 0, BUF_LEN as u32);
    let zero_copy = true;
    driver.submit(
        OWNER,
        Op::Send {
            socket,
            batch,
            zero_copy,
            last: false,
        },
    );
}

#[test]
fn zero_copy_send_has_its_result_first_and_gives_its_buffers_back_later() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    lend(&mut driver, socket);
    let reader = std::thread::spawn(move || {
        let mut received = vec![1; BUF_LEN + 4];
        far.read_exact(&mut received).unwrap();
        (received, far)
    });
    let mut completions = reap(&mut driver, 2);
    let Outcome::Released { batch, copied } = completions.pop().unwrap().outcome else {
        panic!("{completions:?}");
    };
    assert_eq!(copied, Some(true), "loopback always copies");
    assert_eq!(batch.left(), BUF_LEN as u64 + 4);
    assert_eq!(driver.pool().free(), 3, "it is whoever lent it that lets it go");
    drop(batch);
    assert_eq!(driver.pool().free(), 4);
    let Outcome::Sent { result, batch, lent } = completions.pop().unwrap().outcome else {
        panic!("{completions:?}");
    };
    assert_eq!((result, lent), (Ok(BUF_LEN as u32 + 4), true));
    assert!(batch.is_none(), "nothing is left");
    assert_eq!((driver.in_flight(), driver.ops.len(), driver.lent), (0, 0, 0));
    let (received, _far) = reader.join().unwrap();
    assert!(received.starts_with(b"head") && received[4..].iter().all(|&b| b == 0));
}

#[test]
fn buffers_lent_to_a_socket_that_is_closed_come_back() {
    let mut driver = driver();
    let (socket, far) = pair(&mut driver);
    rustix::net::sockopt::set_socket_send_buffer_size(socket.fd(), 8 << 20).unwrap();
    lend(&mut driver, socket.clone());
    let Outcome::Sent { result, .. } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("the result comes first");
    };
    assert!(result.unwrap() > 0);
    driver.shutdown(&socket, Ending::Reset);
    drop((socket, far));
    let mut out = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while driver.pool().free() < 4 {
        assert!(Instant::now() < deadline, "they did not come back");
        let wait = Wait {
            at_most: Duration::from_secs(5),
            ..Wait::POLL
        };
        driver.turn(wait, &mut out).unwrap();
        out.clear();
    }
    assert_eq!(driver.lent, 0);
}

/// A send of which the far end reads nothing. Its buffers stay with the socket: on loopback what the far end has room for is
/// copied, and the rest waits in the queue of the near one.
fn lend_more_than_is_read(driver: &mut Uring) -> TcpStream {
    let (socket, far) = pair(driver);
    rustix::net::sockopt::set_socket_send_buffer_size(socket.fd(), 8 << 20).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&far, 4096).unwrap();
    lend(driver, socket);
    let Outcome::Sent { result, .. } = reap(driver, 1).remove(0).outcome else {
        panic!("the result comes first");
    };
    assert!(result.unwrap() > 0);
    far
}

#[test]
fn driver_that_is_dropped_does_not_wait_for_what_is_lent_and_frees_its_port() {
    let mut driver = driver();
    let far = lend_more_than_is_read(&mut driver);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let handle = driver.adopt_listener(listener.into());
    driver.submit(
        OWNER,
        Op::Accept {
            listener: handle,
            brief: false,
        },
    );
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    assert_eq!((driver.in_flight(), driver.lent), (1, 1));
    drop(driver);
    TcpListener::bind(addr).expect("the port is free at once");
    drop(far);
}

#[test]
fn where_zero_copy_is_masked_sends_copy() {
    let mut driver = Uring::new(config(Features::masked("zero_copy").unwrap())).unwrap();
    let (socket, _far) = pair(&mut driver);
    lend(&mut driver, socket);
    let Outcome::Sent { result, batch, lent } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("a send has one completion");
    };
    assert!(result.is_ok() && !lent);
    assert_eq!(batch.unwrap().left(), 0);
    assert_eq!(driver.pool().free(), 4, "nothing is lent");
}
