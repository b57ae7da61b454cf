//! Small programs in C beside btd: they stand between it and the kernel. Their sources lie in `shims`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{installed, tests_dir};

/// Compiles `shims/NAME.c` into `folder`: as a library to be preloaded or as a program. `Err` says why that cannot be done here.
pub fn compile(name: &str, is_library: bool, folder: &Path) -> Result<PathBuf, String> {
    if !installed("cc") {
        return Err("`cc` is not installed (hint: tests/run installs it)".to_owned());
    }
    let source = tests_dir().join("support/shims").join(format!("{name}.c"));
    let made = folder.join(if is_library {
        format!("{name}.so")
    } else {
        name.to_owned()
    });
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall", "-Wextra", "-Werror"]);
    if is_library {
        command.args(["-shared", "-fPIC"]);
    }
    let status = command.arg("-o").arg(&made).arg(&source).status().expect("run cc");
    assert!(status.success(), "{} does not compile", source.display());
    Ok(made)
}
