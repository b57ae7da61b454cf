//! The driver against the kernel: one test for each rule that others paid for.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::registered::BULK_BUFS;
use super::*;
use crate::io::SendBatch;

mod connects;
mod datagrams;
mod lending;
mod opens;
mod registered;
mod writes;

fn config(features: Features) -> UringConfig {
    UringConfig {
        entries: 64,
        pool_bufs: 4,
        pools: 1,
        recv_bufs: 8,
        files: 32,
        features,
    }
}

fn driver() -> Uring {
    Uring::new(config(Features::ALL)).unwrap()
}

const OWNER: Owner = Owner {
    index: 7,
    generation: 3,
};

/// Turns until `count` completions have come.
fn reap(driver: &mut Uring, count: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    let wait = Wait {
        at_most: Duration::from_secs(5),
        ..Wait::POLL
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while out.len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} completions: {out:?}",
            out.len()
        );
        driver.turn(wait, &mut out).unwrap();
    }
    out
}

/// A connection: our end as a handle, the far end as a stream.
fn pair(driver: &mut Uring) -> (Handle, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    (driver.adopt(near.into()), far)
}

fn batch(bytes: &[u8]) -> Box<SendBatch> {
    let mut batch = Box::<SendBatch>::default();
    batch.push_bytes(bytes);
    batch
}

type Folder = Arc<dyn AsFd + Send + Sync>;

fn folder(path: &Path) -> Folder {
    Arc::new(fs::File::open(path).unwrap())
}

/// To read a file of this folder.
fn open(dir: &Folder, name: &str) -> Op {
    open_as(dir, name, false, false)
}

fn open_as(dir: &Folder, name: &str, write: bool, apart: bool) -> Op {
    Op::Open {
        dir: dir.clone(),
        path: CString::new(name).unwrap(),
        write,
        apart,
    }
}

fn all_masks() -> Vec<Features> {
    let mut masks = vec![Features::ALL];
    masks.extend(
        [
            "defer_taskrun",
            "no_sqarray",
            "ring_fd",
            "files",
            "buffers",
            "min_wait",
            "zero_copy",
        ]
        .map(|name| Features::masked(name).unwrap()),
    );
    masks.push(
        Features::masked("defer_taskrun,no_sqarray,ring_fd,files,buffers,huge_pages,min_wait,zero_copy").unwrap(),
    );
    masks
}

#[test]
fn serves_the_same_with_every_feature_masked() {
    for features in all_masks() {
        let mut driver = Uring::new(config(features)).unwrap();
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("payload"), vec![9; 5000]).unwrap();
        driver.submit(OWNER, open(&folder(temp.path()), "payload"));
        let Outcome::Opened { result, .. } = reap(&mut driver, 1).remove(0).outcome else {
            panic!("not an open");
        };
        let opened = result.unwrap();
        assert!(opened.regular && opened.len == 5000);
        let buf = driver.pool().take().unwrap();
        let file = opened.file;
        driver.submit(
            OWNER,
            Op::Read {
                file,
                offset: 4096,
                len: 4096,
                at: 0,
                buf,
                uncached: false,
            },
        );
        let Outcome::ReadDone { result, buf } = reap(&mut driver, 1).remove(0).outcome else {
            panic!("not a read");
        };
        assert_eq!(result, Ok(904), "short at the end of the file: {features:?}");
        let (socket, mut far) = pair(&mut driver);
        let mut batch = batch(b"head");
        batch.push_buffer(Rc::new(buf), 0, 904);
        let zero_copy = false;
        driver.submit(
            OWNER,
            Op::Send {
                socket,
                batch,
                zero_copy,
                last: false,
            },
        );
        let Outcome::Sent { result, batch, .. } = reap(&mut driver, 1).remove(0).outcome else {
            panic!("not a send");
        };
        assert_eq!(result, Ok(908));
        let mut received = [0; 908];
        far.read_exact(&mut received).unwrap();
        assert!(received.starts_with(b"head") && received[4..].iter().all(|&b| b == 9));
        assert_eq!(batch.unwrap().left(), 0);
        assert_eq!(driver.pool().free(), 4);
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn accept_goes_on_and_names_each_peer() {
    let mut driver = driver();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let listener = driver.adopt_listener(listener.into());
    let token = driver.submit(OWNER, Op::Accept { listener, brief: false });
    let far: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(to).unwrap()).collect();
    let mut peers: Vec<SocketAddr> = reap(&mut driver, 3)
        .into_iter()
        .map(|completion| match completion.outcome {
            Outcome::Accepted {
                result: Ok(accepted),
                more: true,
            } => {
                let socket = accepted.socket.fd();
                assert!(rustix::net::sockopt::tcp_nodelay(socket).unwrap());
                assert_eq!(
                    rustix::net::sockopt::tcp_user_timeout(socket).unwrap(),
                    UNACKNOWLEDGED_MS_MAX
                );
                accepted.peer
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let mut expected: Vec<SocketAddr> = far.iter().map(|far| far.local_addr().unwrap()).collect();
    peers.sort();
    expected.sort();
    assert_eq!(peers, expected);
    assert_eq!(driver.in_flight(), 1, "the accept is still armed");
    driver.cancel(token);
    let end = reap(&mut driver, 1).remove(0);
    assert!(matches!(
        end.outcome,
        Outcome::Accepted {
            result: Err(Errno::CANCELED),
            more: false
        }
    ));
    assert_eq!(driver.in_flight(), 0);
}

#[test]
fn receive_without_a_free_buffer_ends_with_enobufs_and_can_be_armed_again() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    driver.submit(
        OWNER,
        Op::Recv {
            socket: socket.clone(),
            bulk: false,
        },
    );
    // Ten buffers' worth for a ring of eight.
    far.write_all(&[5; 10 * recv_ring::RECV_BUF_LEN]).unwrap();
    let mut held = Vec::new();
    let mut starved = false;
    while !starved {
        for completion in reap(&mut driver, 1) {
            match completion.outcome {
                Outcome::Received {
                    result: Ok(Received::Data(bytes)),
                    ..
                } => held.push(bytes),
                Outcome::Received {
                    result: Err(Errno::NOBUFS),
                    more: false,
                } => starved = true,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(driver.counters().recv_starved, 1);
    let mut total: usize = held.iter().map(|bytes| bytes.len()).sum();
    drop(held);
    driver.submit(OWNER, Op::Recv { socket, bulk: false });
    while total < 10 * recv_ring::RECV_BUF_LEN {
        for completion in reap(&mut driver, 1) {
            let Outcome::Received {
                result: Ok(Received::Data(bytes)),
                more,
            } = completion.outcome
            else {
                panic!("{completion:?}");
            };
            assert!(more && bytes.iter().all(|&b| b == 5));
            total += bytes.len();
        }
    }
    assert_eq!(total, 10 * recv_ring::RECV_BUF_LEN);
}

/// Several times what all long buffers hold, in order, beside a connection with short ones.
#[test]
fn bulk_is_received_into_long_buffers_in_order() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    let (other, mut other_far) = pair(&mut driver);
    let len = 3 * usize::from(BULK_BUFS) * recv_ring::BULK_BUF_LEN;
    let sent: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || {
            far.write_all(&sent).unwrap();
            far
        }
    });
    let other_owner = Owner { index: 77, ..OWNER };
    driver.submit(
        OWNER,
        Op::Recv {
            socket: socket.clone(),
            bulk: true,
        },
    );
    driver.submit(
        other_owner,
        Op::Recv {
            socket: other,
            bulk: false,
        },
    );
    other_far.write_all(b"short").unwrap();
    let (mut got, mut longest, mut short) = (Vec::new(), 0, Vec::new());
    while got.len() < len || short.len() < 5 {
        for completion in reap(&mut driver, 1) {
            match completion.outcome {
                Outcome::Received {
                    result: Ok(Received::Data(bytes)),
                    ..
                } if completion.owner == other_owner => {
                    short.extend_from_slice(&bytes);
                }
                Outcome::Received {
                    result: Ok(Received::Data(bytes)),
                    more,
                } => {
                    longest = longest.max(bytes.len());
                    got.extend_from_slice(&bytes);
                    if !more {
                        driver.submit(
                            OWNER,
                            Op::Recv {
                                socket: socket.clone(),
                                bulk: true,
                            },
                        );
                    }
                }
                Outcome::Received {
                    result: Err(Errno::NOBUFS),
                    more: false,
                } => {
                    driver.submit(
                        OWNER,
                        Op::Recv {
                            socket: socket.clone(),
                            bulk: true,
                        },
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(got == sent && short == b"short");
    assert!(longest > recv_ring::RECV_BUF_LEN, "{longest}");
    drop(writer.join().unwrap());
}

#[test]
fn receive_buffers_return_on_every_path() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    driver.submit(OWNER, Op::Recv { socket, bulk: false });
    for round in 0..100_u8 {
        far.write_all(&[round]).unwrap();
        let completion = reap(&mut driver, 1).remove(0);
        let Outcome::Received {
            result: Ok(Received::Data(bytes)),
            more: true,
        } = completion.outcome
        else {
            panic!("round {round}: {completion:?}");
        };
        assert_eq!(*bytes, [round]);
    }
}

#[test]
fn end_of_stream_ends_the_receive() {
    let mut driver = driver();
    let (socket, far) = pair(&mut driver);
    driver.submit(OWNER, Op::Recv { socket, bulk: false });
    drop(far);
    let completion = reap(&mut driver, 1).remove(0);
    assert!(matches!(
        completion.outcome,
        Outcome::Received {
            result: Ok(Received::Eof),
            more: false
        }
    ));
    assert_eq!(driver.in_flight(), 0);
}

#[test]
fn shutdown_ends_what_is_pending_on_a_socket() {
    for ending in [Ending::Orderly, Ending::Reset] {
        let mut driver = driver();
        let (socket, _far) = pair(&mut driver);
        driver.submit(
            OWNER,
            Op::Recv {
                socket: socket.clone(),
                bulk: false,
            },
        );
        // More than the socket takes from a peer that never reads.
        let big = vec![0; 32 << 20];
        let zero_copy = false;
        driver.submit(
            OWNER,
            Op::Send {
                socket: socket.clone(),
                batch: batch(&big),
                zero_copy,
                last: false,
            },
        );
        let Outcome::Sent {
            result: Ok(sent),
            batch: Some(batch),
            ..
        } = reap(&mut driver, 1).remove(0).outcome
        else {
            panic!("not a short send");
        };
        assert!((sent as usize) < big.len(), "a short send is reported as it is");
        assert_eq!(batch.left(), big.len() as u64 - u64::from(sent));
        driver.submit(
            OWNER,
            Op::Send {
                socket: socket.clone(),
                batch,
                zero_copy,
                last: false,
            },
        );
        let mut out = Vec::new();
        driver.turn(Wait::POLL, &mut out).unwrap();
        assert!(out.is_empty(), "the send waits for room: {out:?}");
        driver.shutdown(&socket, ending);
        reap(&mut driver, 2);
        assert_eq!(driver.in_flight(), 0);
    }
}

#[test]
fn overflown_completion_queue_loses_nothing() {
    let mut driver = driver();
    // 64 entries make a completion queue of 256; the doorbells all ring at once.
    let count = 1000;
    let bells: Vec<OwnedFd> = (0..count).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
    for (index, bell) in bells.iter().enumerate() {
        let event = driver.adopt(bell.try_clone().unwrap());
        let owner = Owner {
            index: index as u32,
            generation: 0,
        };
        driver.submit(owner, Op::Doorbell { event });
    }
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    for bell in &bells {
        rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap();
    }
    let mut seen: Vec<u32> = reap(&mut driver, count).iter().map(|c| c.owner.index).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..count as u32).collect::<Vec<_>>());
    assert_eq!(driver.in_flight(), 0);
}

#[test]
fn more_submissions_than_the_queue_holds_all_start() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    let temp = tempfile::tempdir().unwrap();
    let dir = folder(temp.path());
    for _ in 0..500 {
        driver.submit(OWNER, open(&dir, "absent"));
    }
    let zero_copy = false;
    driver.submit(
        OWNER,
        Op::Send {
            socket,
            batch: batch(b"x"),
            zero_copy,
            last: false,
        },
    );
    let completions = reap(&mut driver, 501);
    let absent = |c: &&Completion| {
        matches!(
            c.outcome,
            Outcome::Opened {
                result: Err(Errno::NOENT),
                ..
            }
        )
    };
    assert_eq!(completions.iter().filter(absent).count(), 500);
    let mut byte = [0];
    far.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

#[test]
fn descriptor_is_closed_when_its_last_handle_is_dropped() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    driver.submit(
        OWNER,
        Op::Recv {
            socket: socket.clone(),
            bulk: false,
        },
    );
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    drop(socket);
    far.set_nonblocking(true).unwrap();
    assert!(far.read(&mut [0]).is_err(), "open while the receive holds it");
    far.set_nonblocking(false).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    reap(&mut driver, 1);
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "closed after its last completion");
}

#[test]
fn dropping_the_driver_ends_what_is_in_flight() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    let event = driver.adopt(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    driver.submit(OWNER, Op::Doorbell { event });
    driver.submit(OWNER, Op::Recv { socket, bulk: false });
    driver.turn(Wait::POLL, &mut Vec::new()).unwrap();
    assert_eq!(driver.in_flight(), 2);
    let started = Instant::now();
    drop(driver);
    assert!(
        started.elapsed() < DROP_PATIENCE,
        "ended by cancellation, not by patience"
    );
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(
        far.read(&mut [0]).unwrap(),
        0,
        "the ring is gone and has closed its files"
    );
}

#[test]
fn dropping_the_driver_ends_what_had_not_even_started() {
    let mut driver = driver();
    // More than the submission queue of 64 holds, none of it submitted by a turn.
    let bells: Vec<OwnedFd> = (0..200).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
    for bell in &bells {
        let event = driver.adopt(bell.try_clone().unwrap());
        driver.submit(OWNER, Op::Doorbell { event });
    }
    let started = Instant::now();
    drop(driver);
    assert!(
        started.elapsed() < DROP_PATIENCE,
        "ended by cancellation, not by patience"
    );
}

#[test]
fn foreign_user_data_is_counted_and_dropped() {
    let mut driver = driver();
    let nop = opcode::Nop::new().build();
    for user_data in [
        u64::MAX,
        0,
        Token {
            kind: OpKind::Read,
            generation: 1,
            index: 12345,
        }
        .to_u64(),
    ] {
        driver.push(nop.clone().user_data(user_data));
    }
    let mut out = Vec::new();
    let wait = Wait {
        at_most: Duration::from_millis(100),
        ..Wait::POLL
    };
    while driver.counters().stale < 3 {
        driver.turn(wait, &mut out).unwrap();
    }
    assert!(out.is_empty());
}

#[test]
fn minimum_wait_collects_a_batch_and_still_ends() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    driver.submit(OWNER, Op::Recv { socket, bulk: false });
    far.write_all(b"x").unwrap();
    let wait = Wait {
        at_most: Duration::from_secs(5),
        at_least: Duration::from_micros(500),
        ..Wait::POLL
    };
    let mut out = Vec::new();
    let started = Instant::now();
    while out.is_empty() {
        driver.turn(wait, &mut out).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn minimum_wait_ends_with_the_batch() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    driver.submit(OWNER, Op::Recv { socket, bulk: false });
    let mut out = Vec::new();
    driver.turn(Wait::POLL, &mut out).unwrap();
    far.write_all(b"x").unwrap();
    let wait = Wait {
        at_most: Duration::from_secs(30),
        at_least: Duration::from_secs(20),
        enough: 1,
    };
    let started = Instant::now();
    while out.is_empty() {
        driver.turn(wait, &mut out).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn last_send_of_a_stream_leaves_with_its_end() {
    let mut driver = driver();
    let (socket, mut far) = pair(&mut driver);
    far.set_nonblocking(true).unwrap();
    driver.submit(
        OWNER,
        Op::Send {
            socket: socket.clone(),
            batch: batch(b"reply"),
            zero_copy: false,
            last: true,
        },
    );
    let Outcome::Sent { result, .. } = reap(&mut driver, 1).remove(0).outcome else {
        panic!("not a send");
    };
    assert_eq!(result, Ok(5));
    let mut received = [0; 8];
    // On loopback what was sent is there when the send has ended.
    assert_eq!(
        far.read(&mut received).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    driver.shutdown(&socket, Ending::Half);
    far.set_nonblocking(false).unwrap();
    assert_eq!(far.read(&mut received).unwrap(), 5);
    assert_eq!(far.read(&mut received).unwrap(), 0, "the end came with it");
}
