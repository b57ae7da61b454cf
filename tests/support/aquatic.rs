//! aquatic's trackers, where they are installed: one speaks UDP, the other HTTP. They are not packaged by Debian.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::Process;
use super::{http, wait_for, within};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aquatic {
    Udp,
    Http,
}

impl Aquatic {
    fn program(self) -> &'static str {
        match self {
            Self::Udp => "aquatic_udp",
            Self::Http => "aquatic_http",
        }
    }

    /// Where it is: in the variable that says so, or in `PATH`.
    fn find(self) -> Option<PathBuf> {
        let variable = format!("BTD_TEST_{}", self.program().to_uppercase());
        if let Some(path) = std::env::var_os(variable) {
            return Some(path.into());
        }
        let dirs = std::env::var_os("PATH")?;
        let mut paths = std::env::split_paths(&dirs).map(|dir| dir.join(self.program()));
        paths.find(|path| path.is_file())
    }

    /// What has to be installed for it and is not.
    pub fn missing(self) -> Option<String> {
        let program = self.program();
        let hint = || {
            format!(
                "`{program}` is not installed (hint: `cargo install {program} --version 0.9.0`, or BTD_TEST_{}=PATH)",
                program.to_uppercase()
            )
        };
        self.find().is_none().then(hint)
    }

    /// Starts it on this address, with its files in `dir`.
    pub fn start(self, dir: &Path, addr: SocketAddr) -> Process {
        let file = dir.join("aquatic.toml");
        fs::write(&file, format!("[network]\naddress = \"{addr}\"\n")).expect("write aquatic's configuration");
        let mut command = Command::new(self.find().expect("it is installed"));
        command.arg("-c").arg(&file);
        let mut process = Process::spawn(self.program(), &mut command, &dir.join("aquatic.log"));
        wait_for("aquatic listens", within(20), || {
            process.assert_running();
            match self {
                Self::Http => std::net::TcpStream::connect(addr).ok().map(|_| ()),
                Self::Udp => answers(addr).then_some(()),
            }
        });
        process
    }

    pub fn announce_url(self, addr: SocketAddr) -> String {
        match self {
            Self::Udp => format!("udp://{addr}/announce"),
            Self::Http => format!("http://{addr}/announce"),
        }
    }
}

/// Whether a connection id is given (BEP 15).
fn answers(addr: SocketAddr) -> bool {
    let asked = || {
        let socket = std::net::UdpSocket::bind((addr.ip(), 0))?;
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
        let datagram = [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4];
        socket.send_to(&datagram, addr)?;
        socket.recv(&mut [0; 64])
    };
    asked().is_ok_and(|len| len == 16)
}

/// How many seeders and leechers it says that a torrent has, by an HTTP scrape.
pub fn scraped(addr: SocketAddr, info_hash: &[u8]) -> Option<String> {
    let escaped: String = info_hash.iter().map(|byte| format!("%{byte:02x}")).collect();
    Some(http::get(addr, &format!("/scrape?info_hash={escaped}")).ok()?.text())
}
