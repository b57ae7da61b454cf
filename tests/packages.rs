//! What packages install: the manual, the configuration, and the Debian package, installed into a folder, used and purged.

mod support;

use std::fs;
use std::process::Command;

use support::package::{self, btd, root, succeed};
use support::scratch::Scratch;
use support::{cannot, installed, private_net};

#[test]
fn configuration_of_the_packages_is_good() {
    // Peers come by both families; networks of containers have but one of them, if nobody wants more.
    let all: &[&str] = &["0.0.0.0:6881", "[::]:6881"];
    for (file, expected) in [("config/btd.toml", all), ("packaging/docker/btd.toml", &all[..1])] {
        let output = btd(&["check-config", "--config", file], root());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{file}: {said}");
        let text = fs::read_to_string(root().join(file)).expect("read a configuration");
        let config: toml::Table = text.parse().expect("TOML");
        let listen: Vec<&str> = config["peers"]["listen"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(toml::Value::as_str)
            .collect();
        assert_eq!(listen, expected, "{file}");
    }
}

#[test]
fn manual_is_what_groff_understands_without_a_word() {
    if !installed("groff") {
        return cannot("`groff` is not installed");
    }
    let scratch = Scratch::new("manual");
    assert!(btd(&["man", "."], scratch.path()).status.success());
    let mut pages = 0;
    for entry in fs::read_dir(scratch.path()).expect("list the manual") {
        let page = entry.expect("list the manual").path();
        let output = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-Kutf8"])
            .arg(&page)
            .output()
            .expect("run groff");
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && complaints.is_empty(),
            "{}:\n{complaints}",
            page.display()
        );
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("btd"),
            "{}",
            page.display()
        );
        pages += 1;
    }
    assert!(pages > 10, "{pages}");
}

#[test]
fn debian_package_is_installed_used_and_purged_and_leaves_payload_alone() {
    if !installed("dpkg") || !rustix::process::geteuid().is_root() {
        return cannot("installing a package needs `dpkg` and root");
    }
    let scratch = Scratch::new("package");
    let package = package::build(&scratch);
    let system = scratch.dir("system");
    for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "run", "tmp"] {
        scratch.dir(&format!("system/{dir}"));
    }
    let status = system.join("var/lib/dpkg/status");
    let systemd = |version: &str| {
        let package = "Package: systemd\nStatus: install ok installed\nMaintainer: a <a@localhost>\nArchitecture: all\nDescription: a\n";
        let before = fs::read_to_string(&status).unwrap_or_default();
        let others = before
            .split("\n\n")
            .filter(|one| !one.trim().is_empty() && !one.contains("Package: systemd"));
        let all: Vec<String> = others
            .map(|one| format!("{}\n", one.trim()))
            .chain([format!("{package}Version: {version}\n")])
            .collect();
        fs::write(&status, all.join("\n")).expect("write dpkg's status");
    };
    systemd("252.39-1~deb12u1");
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", system.display()))
            .arg("--force-script-chrootless");
        succeed(command.args(arguments))
    };
    dpkg(&["--install", package.to_str().expect("UTF-8")]);

    let program = system.join("usr/bin/btd");
    let config = system.join("etc/btd/btd.toml");
    let said = succeed(Command::new(&program).args(["check-config", "--config"]).arg(&config));
    assert!(said.contains("good"), "{said}");
    for file in [
        "usr/lib/systemd/system/btd.service",
        "usr/lib/systemd/system/btd@.service",
        "usr/share/man/man1/btd.1.gz",
        "usr/share/man/man5/btd.toml.5.gz",
        "usr/share/man/man1/btd-ctl.1.gz",
        "usr/share/bash-completion/completions/btd",
        "usr/share/zsh/vendor-completions/_btd",
        "usr/share/fish/vendor_completions.d/btd.fish",
    ] {
        assert!(system.join(file).is_file(), "{file} is not installed");
    }
    let drop_ins = ["btd.service.d", "btd@.service.d"].map(|dir| system.join("usr/lib/systemd/system").join(dir));
    let file = "notify-reload.conf";
    let are = |there| drop_ins.iter().all(|dir| dir.join(file).exists() == there);
    assert!(are(false), "systemd 252 does not know notify-reload");
    systemd("257.8-1~deb13u2");
    dpkg(&["--install", package.to_str().expect("UTF-8")]);
    assert!(are(true), "systemd 257 is not told to wait for a reload");
    if installed("systemd-sysusers") {
        let users = fs::read_to_string(system.join("etc/passwd")).expect("read the accounts");
        assert!(users.lines().any(|line| line.starts_with("btd:")), "{users}");
        assert!(
            system.join("srv/torrents/watch").is_dir(),
            "the folders of the configuration"
        );
    }
    // btd has run, and there is payload.
    let (state, payload) = (
        scratch.dir("system/var/lib/btd"),
        scratch.dir("system/srv/torrents/data"),
    );
    fs::write(state.join("session.redb"), "x").expect("write");
    fs::write(payload.join("payload"), "x").expect("write");
    dpkg(&["--remove", "btd"]);
    assert!(!program.exists() && config.exists() && state.exists());
    assert!(
        drop_ins.iter().all(|dir| !dir.exists()),
        "folders that the package made are left"
    );
    dpkg(&["--purge", "btd"]);
    assert!(!config.exists() && !state.exists());
    assert!(payload.join("payload").exists(), "payload is the user's");
}

/// What the script of the package says to systemd, which stands in for itself, when the package is removed.
#[test]
fn every_btd_is_stopped_when_the_package_is_removed_those_of_other_users_too() {
    let name = "every_btd_is_stopped_when_the_package_is_removed_those_of_other_users_too";
    private_net::run(name, || {
        let scratch = Scratch::new("prerm");
        let (bin, said) = (scratch.dir("bin"), scratch.path().join("said"));
        let systemctl = bin.join("systemctl");
        fs::write(&systemctl, format!("#!/bin/sh\necho \"$@\" >>{}\n", said.display())).expect("write a program");
        succeed(Command::new("chmod").arg("755").arg(&systemctl));
        // In this mount namespace it is nobody else's.
        succeed(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
        fs::create_dir_all("/run/systemd/system").expect("make a folder");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        for (argument, expected) in [
            ("upgrade", ""),
            (
                "remove",
                "disable --now btd.service\nstop btd@*.service\ndisable btd@.service\n",
            ),
        ] {
            let mut script = Command::new("sh");
            script
                .arg(root().join("packaging/debian/prerm"))
                .arg(argument)
                .env("PATH", &path);
            succeed(script.current_dir(scratch.path()));
            assert_eq!(fs::read_to_string(&said).unwrap_or_default(), expected);
        }
    });
}
