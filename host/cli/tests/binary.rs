//! The binary starts. Being an integration test of this package, this also makes cargo build the binary that the tests of
//! the workspace run.

#[test]
fn the_binary_says_its_version() {
    #[expect(clippy::disallowed_methods, reason = "a test starts the program under test")]
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stagehost")).arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("stagehost {}\n", env!("CARGO_PKG_VERSION")));
}
