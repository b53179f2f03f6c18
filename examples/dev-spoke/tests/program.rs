//! What the program tells a person who has no hub running.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program in a home without a hub.
fn run(home: &Path, arguments: &[&str], key: Option<&str>) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dev-spoke"));
    program.args(arguments).current_dir(home).env_clear().env("HOME", home).env("APPDATA", home);
    program.envs(key.map(|key| ("HUB_KEY", key)));
    program.output().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

#[test]
fn help_tells_what_is_offered_and_what_it_risks() {
    let home = tempfile::tempdir().unwrap();
    let help = said(&run(home.path(), &["--help"], None));
    for part in
        ["fs.read", "bash.run", "dev:write", "--read-only", "--no-bash", "no sandbox", "HUB_KEY", "127.0.0.1:3300"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn a_missing_key_is_told_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &[], None);
    let text = said(&output);
    assert!(!output.status.success());
    assert!(text.contains("admin.key") && text.contains("--key-file") && text.contains("HUB_KEY"), "{text}");
}

#[test]
fn a_hub_that_is_not_there_is_named_and_the_key_is_not() {
    let home = tempfile::tempdir().unwrap();
    // Bound and closed again, so that nothing listens on it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("ws://127.0.0.1:{port}");
    let output = run(home.path(), &["--url", &url, "--name", "x"], Some("hub_secret"));
    let text = said(&output);
    assert!(!output.status.success());
    assert!(text.contains(&format!("127.0.0.1:{port}")) && !text.contains("hub_secret"), "{text}");
}

#[test]
fn a_missing_folder_is_named() {
    let home = tempfile::tempdir().unwrap();
    let output = run(home.path(), &["nowhere"], Some("hub_secret"));
    assert!(!output.status.success() && said(&output).contains("nowhere"), "{}", said(&output));
}
