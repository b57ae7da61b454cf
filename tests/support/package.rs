//! The Debian package, made of the tree as cargo-deb would, with the binary under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::scratch::Scratch;

/// Of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the binary under test in `dir`.
pub fn btd(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args(arguments).current_dir(dir).output().expect("run btd")
}

/// Runs a command that has to succeed, and gives what it said.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {}:\n{said}", output.status);
    said
}

/// The package as a file. Needs `dpkg-deb`.
pub fn build(scratch: &Scratch) -> PathBuf {
    let tree = lay_out(scratch);
    let package = scratch.path().join("btd.deb");
    let mut command = Command::new("dpkg-deb");
    // It is unpacked a moment later.
    command.args(["--root-owner-group", "-Znone", "--build"]);
    succeed(command.arg(&tree).arg(&package));
    package
}

/// The tree of the Debian package, as `packaging/build-deb` and cargo-deb lay it out, with the binary under test.
fn lay_out(scratch: &Scratch) -> PathBuf {
    let (made, tree) = (scratch.dir("made"), scratch.dir("tree"));
    let (man, completions) = (scratch.dir("made/man"), scratch.dir("made/completions"));
    assert!(btd(&["man", man.to_str().expect("UTF-8")], root()).status.success());
    for page in fs::read_dir(&man).expect("list the manual") {
        succeed(
            Command::new("gzip")
                .arg("-9n")
                .arg(page.expect("list the manual").path()),
        );
    }
    for (shell, name) in [("bash", "btd"), ("zsh", "_btd"), ("fish", "btd.fish")] {
        let script = btd(&["completions", shell], root()).stdout;
        fs::write(completions.join(name), script).expect("write completions");
    }
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .expect("read Cargo.toml")
        .parse()
        .expect("TOML");
    let assets = &manifest["package"]["metadata"]["deb"]["assets"];
    for asset in assets.as_array().expect("assets") {
        let (from, to, mode) = (&asset[0], &asset[1], &asset[2]);
        let [from, to, mode] = [from, to, mode].map(|text| text.as_str().expect("a string"));
        let files: Vec<PathBuf> = match (from, from.strip_prefix("target/package/")) {
            ("target/release/btd", _) => vec![PathBuf::from(env!("CARGO_BIN_EXE_btd"))],
            (_, Some(made_file)) if made_file.contains('*') => {
                let (dir, pattern) = made_file.rsplit_once('/').expect("a folder");
                let end = pattern.trim_start_matches('*');
                let files = fs::read_dir(made.join(dir)).expect("list what was made").flatten();
                files
                    .map(|file| file.path())
                    .filter(|file| file.to_string_lossy().ends_with(end))
                    .collect()
            }
            (_, Some(made_file)) => vec![made.join(made_file)],
            (from, None) => vec![root().join(from)],
        };
        assert!(!files.is_empty(), "{from} is nothing");
        for file in files {
            let target = tree.join(to).join(file.file_name().expect("a name"));
            fs::create_dir_all(target.parent().expect("a folder")).expect("make a folder");
            succeed(Command::new("install").arg(format!("-m{mode}")).arg(&file).arg(&target));
        }
    }
    let control = scratch.dir("tree/DEBIAN");
    let text =
        "Package: btd\nVersion: 0.0.1\nArchitecture: all\nMaintainer: btd <btd@localhost>\nDescription: under test\n";
    fs::write(control.join("control"), text).expect("write the control file");
    fs::write(control.join("conffiles"), "/etc/btd/btd.toml\n").expect("write the list");
    for script in ["postinst", "prerm", "postrm"] {
        let from = root().join("packaging/debian").join(script);
        succeed(Command::new("sh").arg("-n").arg(&from));
        succeed(
            Command::new("install")
                .arg("-m755")
                .arg(&from)
                .arg(control.join(script)),
        );
    }
    tree
}
