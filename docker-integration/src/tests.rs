//! Tests of the crate against files in temporary directories, faults included.

use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

struct Fixture {
    directory: TempDir,
}

impl Fixture {
    fn new(contents: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if let Some(contents) = contents {
            fs::write(directory.path().join("daemon.json"), contents).unwrap();
        }
        Self { directory }
    }

    fn daemon_json(&self) -> PathBuf {
        self.directory.path().join("daemon.json")
    }

    fn request(&self) -> InstallRequest {
        let mut request = InstallRequest::new("/usr/local/bin/pegasus");
        request.daemon_json = self.daemon_json();
        request.pidfile = self.directory.path().join("docker.pid");
        request
    }

    fn uninstall_request(&self, name: &str) -> UninstallRequest {
        let mut request = UninstallRequest::new(name);
        request.daemon_json = self.daemon_json();
        request.pidfile = self.directory.path().join("docker.pid");
        request
    }

    fn text(&self) -> String {
        fs::read_to_string(self.daemon_json()).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn creates_a_missing_file() {
    let fixture = Fixture::new(None);
    let report = install(&fixture.request()).unwrap();
    assert_eq!(report.change, Change::Added);
    assert_eq!(report.reload, Reload::NotRunning);
    assert_eq!(report.backup, None);
    let expected = "{\n    \"runtimes\": {\n        \"pegasus\": {\n            \"path\": \"/usr/local/bin/pegasus\"\n        }\n    }\n}\n";
    assert_eq!(fixture.text(), expected);
    assert_eq!(
        fs::metadata(fixture.daemon_json())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o644
    );
}

#[test]
fn keeps_other_keys_order_indent_and_mode() {
    let before = "{\n  \"zeta\": 1,\n  \"runtimes\": {\n    \"kata\": {\"path\": \"/k\"}\n  },\n  \"alpha\": [true, null]\n}\n";
    let fixture = Fixture::new(Some(before));
    fs::set_permissions(fixture.daemon_json(), fs::Permissions::from_mode(0o600)).unwrap();
    let mut request = fixture.request();
    request.name = "pegasus-group".into();
    request.group = Some("web".into());
    request.isolation = Some(Isolation::None);
    let report = install(&request).unwrap();
    let text = fixture.text();
    let at = |needle: &str| {
        text.find(needle)
            .unwrap_or_else(|| panic!("{needle} missing in {text}"))
    };
    assert!(
        at("\n  \"zeta\"") < at("\n    \"kata\"")
            && at("kata") < at("pegasus-group")
            && at("pegasus-group") < at("alpha")
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entry = &value["runtimes"]["pegasus-group"];
    assert_eq!(
        entry["runtimeArgs"],
        serde_json::json!(["--group", "web", "--isolation", "none"])
    );
    assert_eq!(
        fs::metadata(fixture.daemon_json())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert_eq!(fs::read_to_string(report.backup.unwrap()).unwrap(), before);
    assert_eq!(
        fixture.files(),
        ["daemon.json", "daemon.json.pegasus-backup"]
    );
}

#[test]
fn installing_twice_changes_nothing_and_the_first_backup_stays() {
    let fixture = Fixture::new(Some("{}"));
    install(&fixture.request()).unwrap();
    let once = fixture.text();
    let again = install(&fixture.request()).unwrap();
    assert_eq!(
        (again.change, again.reload),
        (Change::Nothing, Reload::NotNeeded)
    );
    assert_eq!(fixture.text(), once);
    let mut request = fixture.request();
    request.group = Some("g".into());
    let updated = install(&request).unwrap();
    assert_eq!((updated.change, updated.backup), (Change::Updated, None));
    let backup = fixture.directory.path().join("daemon.json.pegasus-backup");
    assert_eq!(fs::read_to_string(backup).unwrap(), "{}");
}

#[test]
fn a_dry_run_writes_nothing() {
    let fixture = Fixture::new(Some("{\"debug\": true}"));
    let mut request = fixture.request();
    request.mode = Mode::DryRun;
    let report = install(&request).unwrap();
    assert!(report.contents.contains("/usr/local/bin/pegasus"));
    assert!(
        report
            .to_string()
            .starts_with("Would add runtime `pegasus`"),
        "{report}"
    );
    assert_eq!(fixture.text(), "{\"debug\": true}");
    assert_eq!(fixture.files(), ["daemon.json"]);
}

#[test]
fn uninstall_undoes_install() {
    let before = "{\n    \"debug\": true\n}\n";
    let fixture = Fixture::new(Some(before));
    install(&fixture.request()).unwrap();
    let report = uninstall(&fixture.uninstall_request("pegasus")).unwrap();
    assert_eq!(report.change, Change::Removed);
    assert_eq!(fixture.text(), before);
    let again = uninstall(&fixture.uninstall_request("pegasus")).unwrap();
    assert_eq!(again.change, Change::Nothing);
}

#[test]
fn uninstall_keeps_other_runtimes_and_the_default_one() {
    let fixture = Fixture::new(Some(
        r#"{"runtimes": {"a": {"path": "/a"}, "b": {"path": "/b"}}, "default-runtime": "b"}"#,
    ));
    uninstall(&fixture.uninstall_request("a")).unwrap();
    assert!(fixture.text().contains("\"b\""));
    let before = fixture.text();
    let refused = uninstall(&fixture.uninstall_request("b")).unwrap_err();
    assert!(
        matches!(refused, InstallError::IsDefault { .. }),
        "{refused}"
    );
    assert_eq!(fixture.text(), before);
}

#[test]
fn an_unparsable_file_is_refused_with_its_place() {
    let before = "{\n  \"debug\": true,\n  oops\n}\n";
    let fixture = Fixture::new(Some(before));
    let refused = install(&fixture.request()).unwrap_err();
    assert!(
        matches!(
            refused,
            InstallError::Unparsable {
                line: 3,
                column: 3,
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("line 3, column 3"),
        "{refused}"
    );
    assert_eq!(fixture.text(), before);
    assert_eq!(fixture.files(), ["daemon.json"]);
}

#[test]
fn wrong_shapes_are_refused() {
    for (text, wanted) in [
        ("[1]", "does not hold a JSON object"),
        (r#"{"runtimes": []}"#, "\"runtimes\""),
    ] {
        let fixture = Fixture::new(Some(text));
        let refused = install(&fixture.request()).unwrap_err().to_string();
        assert!(refused.contains(wanted), "{refused}");
        assert_eq!(fixture.text(), text);
        assert_eq!(fixture.files(), ["daemon.json"]);
    }
    let fixture = Fixture::new(Some(r#"{"runtimes": 7}"#));
    let refused = uninstall(&fixture.uninstall_request("pegasus")).unwrap_err();
    assert!(
        matches!(refused, InstallError::RuntimesNotAnObject { .. }),
        "{refused}"
    );
}

#[test]
fn an_empty_file_is_an_empty_object() {
    let fixture = Fixture::new(Some("\n"));
    assert_eq!(install(&fixture.request()).unwrap().change, Change::Added);
}

#[test]
fn a_foreign_entry_of_the_same_name_is_refused() {
    let before = r#"{"runtimes": {"pegasus": {"path": "/opt/other/horse"}}}"#;
    let fixture = Fixture::new(Some(before));
    let refused = install(&fixture.request()).unwrap_err();
    assert!(
        refused.to_string().contains("/opt/other/horse"),
        "{refused}"
    );
    assert_eq!(fixture.text(), before);
}

#[test]
fn names_groups_and_paths_that_a_shell_would_change_are_refused() {
    let fixture = Fixture::new(None);
    for name in ["", "runc", "a b", "a;b"] {
        let mut request = fixture.request();
        request.name = name.into();
        assert!(
            matches!(install(&request), Err(InstallError::BadName { .. })),
            "{name}"
        );
    }
    for group in ["", "-x", "a$b", "a\nb"] {
        let mut request = fixture.request();
        request.group = Some(group.into());
        assert!(
            matches!(install(&request), Err(InstallError::BadArgument { .. })),
            "{group}"
        );
    }
    for path in ["pegasus", "/opt/my programs/pegasus"] {
        let mut request = fixture.request();
        request.runtime_path = path.into();
        assert!(
            matches!(install(&request), Err(InstallError::BadArgument { .. })),
            "{path}"
        );
    }
    assert!(fixture.files().is_empty());
}

#[test]
fn a_link_stays_a_link() {
    let fixture = Fixture::new(None);
    let real = fixture.directory.path().join("kept").join("real.json");
    fs::create_dir(real.parent().unwrap()).unwrap();
    fs::write(&real, "{}").unwrap();
    symlink(&real, fixture.daemon_json()).unwrap();
    let report = install(&fixture.request()).unwrap();
    assert!(
        fs::symlink_metadata(fixture.daemon_json())
            .unwrap()
            .is_symlink()
    );
    assert_eq!(report.daemon_json, fs::canonicalize(&real).unwrap());
    assert!(fs::read_to_string(&real).unwrap().contains("pegasus"));
}

#[test]
fn a_dangling_link_is_refused() {
    let fixture = Fixture::new(None);
    symlink("nowhere.json", fixture.daemon_json()).unwrap();
    assert!(matches!(
        install(&fixture.request()),
        Err(InstallError::DanglingLink { .. })
    ));
}

/// Runs `body` with a file-system identity that may not write what root owns.
fn without_write_access<T>(body: impl FnOnce() -> T) -> T {
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
    let result = body();
    nix::unistd::setfsuid(nix::unistd::geteuid());
    result
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_and_nothing_is_left() {
    let fixture = Fixture::new(Some("{}"));
    fs::set_permissions(fixture.directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let refused = without_write_access(|| install(&fixture.request())).unwrap_err();
    assert!(matches!(refused, InstallError::Write { .. }), "{refused:?}");
    fs::set_permissions(fixture.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fixture.text(), "{}");
    assert_eq!(fixture.files(), ["daemon.json"]);
}

#[test]
fn a_pidfile_of_another_program_is_left_alone() {
    let fixture = Fixture::new(None);
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(fixture.request().pidfile, sleeper.id().to_string()).unwrap();
    let report = install(&fixture.request()).unwrap();
    assert_eq!(report.reload, Reload::NotAnEngine(sleeper.id() as i32));
    assert!(sleeper.try_wait().unwrap().is_none());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

/// A process that looks like an engine with the given configuration file; SIGHUP ends it.
fn pretend_engine(config_file: &Path) -> std::process::Child {
    Command::new("/bin/sh")
        .arg0("dockerd")
        .args(["-c", "while :; do sleep 0.05; done", "--config-file"])
        .arg(config_file)
        .spawn()
        .unwrap()
}

#[test]
fn a_running_engine_is_told_to_reload() {
    use std::os::unix::process::ExitStatusExt as _;
    let fixture = Fixture::new(None);
    let mut engine = pretend_engine(&fixture.daemon_json());
    fs::write(fixture.request().pidfile, engine.id().to_string()).unwrap();
    let report = install(&fixture.request()).unwrap();
    assert_eq!(report.reload, Reload::Signalled(engine.id() as i32));
    assert_eq!(engine.wait().unwrap().signal(), Some(1));
    assert!(
        report.to_string().contains("told the running engine"),
        "{report}"
    );
}

#[test]
fn an_engine_with_another_configuration_is_left_alone() {
    let fixture = Fixture::new(None);
    let mut engine = pretend_engine(Path::new("/elsewhere/daemon.json"));
    fs::write(fixture.request().pidfile, engine.id().to_string()).unwrap();
    let report = install(&fixture.request()).unwrap();
    assert!(matches!(report.reload, Reload::OtherConfig(..)), "{report}");
    engine.kill().unwrap();
    engine.wait().unwrap();
}
