//! Builds the vkernel image and the program of anchors, and hands their files to `src/instance/image.rs` and
//! `src/anchor/`.
//!
//! The image is a freestanding program at a fixed address, so it needs other link arguments, another
//! profile and another panic strategy than everything else: a nested cargo builds it into this
//! package's output directory, with none of the outer build's settings.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "vkernel";
const PACKAGE: &str = "pegasus-image";
/// Programs of that package, and the variables that name them.
const PROGRAMS: [(&str, &str); 2] = [
    ("pegasus-image", "PEGASUS_IMAGE"),
    ("pegasus-anchor", "PEGASUS_ANCHOR"),
];

/// Position-independent code, linked without libc or start files; [`base_flag`] adds where.
const RUSTC_FLAGS: [&str; 9] = [
    "-Crelocation-model=pic",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nodefaultlibs",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,--gc-sections",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-e,pegasus_entry",
];

/// Between arguments of `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

fn main() {
    let workspace = manifest_dir().join("..");
    for folder in ["vkernel", "loader", "Cargo.toml"] {
        println!(
            "cargo:rerun-if-changed={}",
            workspace.join(folder).display()
        );
    }
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let target_dir = output.join("vkernel");
    let status = nested_cargo(&workspace, &target_dir)
        .status()
        .expect("cargo can be run again");
    assert!(
        status.success(),
        "the vkernel image does not build (see the messages above)"
    );
    for (program, variable) in PROGRAMS {
        let image = fs::read(target_dir.join(TARGET).join(PROFILE).join(program))
            .expect("cargo has built the program");
        let embedded = output.join(program).with_extension("elf");
        fs::write(&embedded, &image[..loaded_len(&image)]).expect("OUT_DIR is writable");
        println!("cargo:rustc-env={variable}={}", embedded.display());
    }
}

fn manifest_dir() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
}

fn nested_cargo(workspace: &Path, target_dir: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_build_setting = text.starts_with("CARGO") && text != "CARGO_HOME"
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTFLAGS")
            || text.starts_with("LIBSECCOMP");
        if is_build_setting {
            cargo.env_remove(&name);
        }
    }
    let flags = [&RUSTC_FLAGS[..], &[&base_flag()]]
        .concat()
        .join(FLAG_SEPARATOR);
    cargo
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args([
            "build",
            "--locked",
            "--package",
            PACKAGE,
            "--features",
            "freestanding",
        ])
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    cargo
}

/// The image's fixed address, as the linker takes it.
fn base_flag() -> String {
    format!(
        "-Clink-arg=-Wl,--image-base={:#x}",
        pegasus_contract::layout::IMAGE_BASE
    )
}

/// Length of the part of an ELF file that is ever mapped: symbols and debug information follow it.
fn loaded_len(image: &[u8]) -> usize {
    const PT_LOAD: u64 = 1;
    let field = |offset: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&image[offset..offset + len]);
        u64::from_le_bytes(bytes)
    };
    let index = |value: u64| usize::try_from(value).expect("an offset within the image");
    let table = index(field(0x20, 8));
    let (entry_len, entries) = (index(field(0x36, 2)), index(field(0x38, 2)));
    (0..entries)
        .map(|number| table + number * entry_len)
        .filter(|entry| field(*entry, 4) == PT_LOAD)
        .map(|entry| index(field(entry + 0x08, 8) + field(entry + 0x20, 8)))
        .max()
        .expect("the image has something to load")
}
