//! The images: the plain `debian:bookworm`, and the suite's own derived from it.
//!
//! A registry is asked first; where none answers, the plain image is made from Debian's packages
//! with the machine's own apt sources. Each image of ours carries a label with the fingerprint of
//! what it was made from, so a second run finds it in the engine and does nothing.

use crate::engine::Engine;
use crate::fingerprint::Fingerprint;
use crate::progress::Step;
use crate::shell;
use anyhow::{Context as _, Result};
use pegasus_tests::harness::site::{CONFORMANCE_IMAGE, PLAIN_IMAGE, PROGRAMS_DIR, TEST_IMAGE};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SUITE: &str = "bookworm";
const LABEL: &str = "dev.pegasus.key";
/// What the demo's pair runs.
pub const DEMO_IMAGE: &str = "pegasus-demo:redis";
const PULL_LIMIT: Duration = Duration::from_secs(90);

/// The plain image with more of Debian's packages in it.
#[derive(Debug)]
struct Derived {
    image: &'static str,
    packages: &'static [&'static str],
}

const DEMO: Derived = Derived {
    image: DEMO_IMAGE,
    packages: &["redis-server", "redis-tools"],
};

/// The test image without the test programs: the servers and tools that the suite runs.
const SERVERS: Derived = Derived {
    image: "pegasus-servers:bookworm",
    packages: &[
        "busybox-static",
        "caddy",
        "haproxy",
        "iproute2",
        "libmemcached-tools",
        "libpython3.11-testsuite",
        "memcached",
        "musl",
        "nginx-light",
        "procps",
        "python3",
        "redis-server",
        "redis-tools",
        "wrk",
    ],
};

/// What `cargo xtask conformance` runs: suites that come with Debian's packages, and real programs.
const CONFORMANCE: Derived = Derived {
    image: CONFORMANCE_IMAGE,
    packages: &[
        "gcc",
        "git",
        "libc6-dev",
        "libpython3.11-testsuite",
        "make",
        "nodejs",
        "openjdk-17-jdk-headless",
        "perl",
        "php-cli",
        "postgresql-15",
        "postgresql-contrib-15",
        "procps",
        "python3",
        "ruby",
        "sqlite3",
        "stress-ng",
        "tzdata",
    ],
};

/// Makes sure that the engine has the plain image; an image that is there is never replaced.
pub fn ensure_plain(engine: &Engine, cache: &Path) -> Result<()> {
    let step = Step::begin(format!("image {PLAIN_IMAGE}"));
    if engine
        .docker(["image", "inspect", "--format", "{{.Id}}", PLAIN_IMAGE])
        .is_ok()
    {
        step.done("the engine has it");
        return Ok(());
    }
    step.note("asking the registry");
    let mut pull = engine.client();
    pull.args(["pull", "--quiet", PLAIN_IMAGE]);
    if pegasus_tests::harness::command::finish(&mut pull, b"", PULL_LIMIT)
        .is_ok_and(|done| done.status == 0)
    {
        step.done("pulled");
        return Ok(());
    }
    step.note("no registry answers; making it from Debian's packages");
    let archive = bootstrap(cache)?;
    step.note("importing");
    engine.docker([
        "import",
        "--change",
        "CMD [\"bash\"]",
        &archive.display().to_string(),
        PLAIN_IMAGE,
    ])?;
    step.done("made from Debian's packages");
    Ok(())
}

/// A tar archive of a minimal Debian, made once.
fn bootstrap(cache: &Path) -> Result<PathBuf> {
    let archive = cache.join(format!("{SUITE}-minbase.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    let rootfs = cache.join("bootstrap");
    remove(&rootfs)?;
    let mut args = vec![
        "--variant=minbase".to_owned(),
        SUITE.to_owned(),
        rootfs.display().to_string(),
    ];
    // Without one debootstrap uses the mirror that its own script for the suite names.
    args.extend(mirror());
    shell::quiet("debootstrap", &args).context("making a minimal Debian")?;
    fs::remove_dir_all(rootfs.join("var/cache/apt/archives"))?;
    pack(&rootfs, &archive)?;
    remove(&rootfs)?;
    Ok(archive)
}

/// The URI from which this machine's apt takes the suite's `main`, if it does.
fn mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    files.sort();
    files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => mirror_in_stanzas(&text),
            Some("list") => mirror_in_lines(&text),
            _ => None,
        }
    })
}

/// One-line style: `deb [options] URI SUITE COMPONENT…`.
fn mirror_in_lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let without_options = match (line.find('['), line.find(']')) {
            (Some(open), Some(close)) if open < close => {
                format!("{}{}", &line[..open], &line[close + 1..])
            }
            _ => line.to_owned(),
        };
        let words: Vec<&str> = without_options.split_whitespace().collect();
        match words.as_slice() {
            ["deb", uri, suite, components @ ..]
                if *suite == SUITE && components.contains(&"main") =>
            {
                Some((*uri).to_owned())
            }
            _ => None,
        }
    })
}

/// The deb822 style: stanzas of `Field: values`.
fn mirror_in_stanzas(text: &str) -> Option<String> {
    text.split("\n\n").find_map(|stanza| {
        let values = |field: &str| -> Vec<&str> {
            let line = stanza
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case(field));
            line.map(|(_, values)| values.split_whitespace().collect())
                .unwrap_or_default()
        };
        let is_ours = values("Types").contains(&"deb")
            && values("Suites").contains(&SUITE)
            && values("Components").contains(&"main");
        let is_enabled = values("Enabled").first() != Some(&"no");
        (is_ours && is_enabled)
            .then(|| values("URIs").first().map(|uri| (*uri).to_owned()))
            .flatten()
    })
}

/// Makes sure that the engine has the image with Redis.
pub fn ensure_demo(engine: &Engine, cache: &Path) -> Result<()> {
    let step = Step::begin(format!("image {DEMO_IMAGE}"));
    ensure_derived(engine, cache, &DEMO, &step)?;
    step.done("");
    Ok(())
}

/// Makes sure that the engine has the image with the conformance suites.
pub fn ensure_conformance(engine: &Engine, cache: &Path) -> Result<()> {
    let step = Step::begin(format!("image {CONFORMANCE_IMAGE}"));
    ensure_derived(engine, cache, &CONFORMANCE, &step)?;
    step.done("");
    Ok(())
}

/// Makes sure that the engine has the test image with the programs of `programs` in it.
pub fn ensure_test(engine: &Engine, cache: &Path, programs: &Path) -> Result<()> {
    let step = Step::begin(format!("image {TEST_IMAGE}"));
    let key = ensure_derived(engine, cache, &SERVERS, &step)?
        .add_directory(programs)?
        .hex();
    if label_of(engine, TEST_IMAGE) == key {
        step.done("the engine has it");
        return Ok(());
    }
    step.note("adding the test programs");
    let container = engine.docker(["create", SERVERS.image, "true"])?;
    engine.docker([
        "cp",
        &programs.display().to_string(),
        &format!("{container}:{PROGRAMS_DIR}"),
    ])?;
    engine.docker([
        "commit",
        "--change",
        &format!("LABEL {LABEL}={key}"),
        &container,
        TEST_IMAGE,
    ])?;
    engine.docker(["rm", &container])?;
    step.done("made");
    Ok(())
}

/// Returns what the image is made from.
fn ensure_derived(
    engine: &Engine,
    cache: &Path,
    derived: &Derived,
    step: &Step,
) -> Result<Fingerprint> {
    // The layers' digests stay the same when an archive is imported again; the image's id does not.
    let plain = engine.docker([
        "image",
        "inspect",
        "--format",
        "{{json .RootFS.Layers}}",
        PLAIN_IMAGE,
    ])?;
    let key = derived
        .packages
        .iter()
        .fold(Fingerprint::new().add(&plain), |key, package| {
            key.add(package)
        });
    if label_of(engine, derived.image) != key.hex() {
        step.note("installing packages into it");
        derive(engine, cache, derived, &key.hex())?;
    }
    Ok(key)
}

fn label_of(engine: &Engine, image: &str) -> String {
    engine
        .docker([
            "image",
            "inspect",
            "--format",
            &format!("{{{{index .Config.Labels \"{LABEL}\"}}}}"),
            image,
        ])
        .unwrap_or_default()
}

fn derive(engine: &Engine, cache: &Path, derived: &Derived, key: &str) -> Result<()> {
    let archive = cache.join(format!("derived-{key}.tar"));
    if !archive.exists() {
        let rootfs = cache.join("derived");
        remove(&rootfs)?;
        fs::create_dir_all(&rootfs)?;
        let plain = cache.join("plain.tar");
        let container = engine.docker(["create", PLAIN_IMAGE, "true"])?;
        engine.docker([
            "export",
            "--output",
            &plain.display().to_string(),
            &container,
        ])?;
        engine.docker(["rm", &container])?;
        shell::quiet(
            "tar",
            [
                "-C",
                &rootfs.display().to_string(),
                "-xf",
                &plain.display().to_string(),
            ],
        )?;
        fs::remove_file(&plain)?;
        install_packages(&rootfs, derived.packages)?;
        pack(&rootfs, &archive)?;
        remove(&rootfs)?;
    }
    let label = format!("LABEL {LABEL}={key}");
    engine.docker([
        "import",
        "--change",
        &label,
        "--change",
        "CMD [\"bash\"]",
        &archive.display().to_string(),
        derived.image,
    ])?;
    Ok(())
}

/// apt-get in a chroot, in a mount namespace of its own so that nothing stays mounted.
fn install_packages(rootfs: &Path, packages: &[&str]) -> Result<()> {
    let policy = rootfs.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    fs::copy("/etc/resolv.conf", rootfs.join("etc/resolv.conf"))
        .context("the host's resolv.conf")?;
    let script = format!(
        "set -e\n\
         mount -t proc proc \"$1/proc\"\n\
         mount --rbind /dev \"$1/dev\"\n\
         export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
         chroot \"$1\" apt-get -qq {proxy} update\n\
         chroot \"$1\" apt-get -qq {proxy} -o Dpkg::Use-Pty=0 install --yes --no-install-recommends {packages}\n",
        proxy = apt_proxy(),
        packages = packages.join(" "),
    );
    let rootfs_text = rootfs.display().to_string();
    shell::quiet(
        "unshare",
        ["--mount", "sh", "-c", &script, "sh", &rootfs_text],
    )
    .context("installing servers into the image")?;
    fs::remove_file(policy)?;
    fs::write(rootfs.join("etc/resolv.conf"), "")?;
    for leftover in [
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
    ] {
        remove(&rootfs.join(leftover))?;
    }
    Ok(())
}

/// The machine's proxy settings for apt, as options.
fn apt_proxy() -> String {
    let Ok(dump) = shell::quiet("apt-config", ["dump"]) else {
        return String::new();
    };
    let settings = dump
        .stdout
        .lines()
        .filter(|line| line.starts_with("Acquire::http") && line.contains("::Proxy"));
    let options = settings.filter_map(|line| {
        let (key, value) = line.trim_end_matches(';').split_once(' ')?;
        Some(format!("-o {key}={value}"))
    });
    options.collect::<Vec<_>>().join(" ")
}

/// Writes an archive under its final name only when it is whole.
fn pack(rootfs: &Path, archive: &Path) -> Result<()> {
    let partial = archive.with_extension("partial");
    shell::quiet(
        "tar",
        [
            "--numeric-owner",
            "-C",
            &rootfs.display().to_string(),
            "-cf",
            &partial.display().to_string(),
            ".",
        ],
    )?;
    Ok(fs::rename(partial, archive)?)
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_in_both_styles() {
        let lines = "# deb x bookworm main\ndeb [arch=amd64 signed-by=/k] mirror:/a bookworm-updates main\ndeb [arch=amd64] mirror:/b bookworm contrib main\n";
        assert_eq!(mirror_in_lines(lines).as_deref(), Some("mirror:/b"));
        let stanzas = "Types: deb\nURIs: mirror:/s\nSuites: bookworm-security\nComponents: main\n\n\
                       Types: deb deb-src\nURIs: mirror:/c mirror:/d\nSuites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror_in_stanzas(stanzas).as_deref(), Some("mirror:/c"));
        assert_eq!(
            mirror_in_stanzas(&stanzas.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")),
            None
        );
        assert_eq!(mirror_in_lines("deb mirror:/u jammy main"), None);
    }
}
