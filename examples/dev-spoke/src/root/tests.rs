#![cfg(unix)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

struct Project {
    _outer: tempfile::TempDir,
    outside: PathBuf,
    inside: PathBuf,
    root: Root,
}

/// A folder beside a secret, with every kind of link between them.
fn project() -> Project {
    let outer = tempfile::tempdir().unwrap();
    let base = outer.path().canonicalize().unwrap();
    let (outside, inside) = (base.join("outside"), base.join("project"));
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::create_dir_all(inside.join("sub/deep")).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::write(inside.join("file"), "file").unwrap();
    for (to, link) in [
        ("file", "good"),
        ("good", "chain"),
        ("../file", "sub/up"),
        ("../../file", "sub/deep/up"),
        ("sub", "folder"),
        ("../outside/secret", "escape"),
        ("../outside", "out"),
        ("escape", "chained-escape"),
        ("sub/../../outside/secret", "winding"),
        (outside.join("secret").to_str().unwrap(), "absolute"),
        ("nothing", "dangling"),
        ("../outside/new", "dangling-escape"),
        ("loop", "loop"),
    ] {
        symlink(to, inside.join(link)).unwrap();
    }
    let root = Root::open(&inside, Limits { file_bytes: 1000, ..Limits::default() }).unwrap();
    Project { _outer: outer, outside, inside, root }
}

fn write(root: &Root, path: &str, create: bool) -> Result<(), ToolError> {
    root.target(path, create)?.replace(b"new").map_err(|e| ToolError::of_io(path, &e))
}

const ESCAPES: [&str; 13] = [
    "..",
    "../outside/secret",
    "sub/../../outside/secret",
    "sub/../file",
    "/etc/passwd",
    "/",
    "a\0b",
    "escape",
    "out/secret",
    "chained-escape",
    "winding",
    "absolute",
    "out/../project/file",
];

#[test]
fn no_path_leads_out() {
    let Project { outside, root, _outer: _kept, .. } = project();
    for path in ESCAPES {
        let outside = |error: ToolError| assert!(matches!(error, ToolError::Outside { .. }), "{path:?}: {error}");
        outside(root.read(path).unwrap_err());
        outside(root.metadata(path).unwrap_err());
        outside(root.folder(path).unwrap_err());
        outside(write(&root, path, false).unwrap_err());
        outside(write(&root, path, true).unwrap_err());
    }
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    for path in ["out/new", "out/sub/new", "out/fresh/new", "dangling-escape"] {
        assert!(write(&root, path, true).is_err(), "{path}");
    }
    let mut left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["secret", "sub"]);
}

#[test]
fn links_inside_are_followed() {
    let Project { inside, root, _outer: _kept, .. } = project();
    for path in ["file", "./file", "good", "chain", "sub/up", "sub/deep/up", "folder/up", "folder/deep/up"] {
        assert_eq!(root.read(path).unwrap(), b"file", "{path}");
    }
    assert_eq!(root.folder("folder/deep").unwrap(), Path::new("sub/deep"));
    write(&root, "chain", false).unwrap();
    assert_eq!(std::fs::read_to_string(inside.join("file")).unwrap(), "new");
    assert!(inside.join("chain").is_symlink() && inside.join("good").is_symlink());
}

#[test]
fn what_is_no_file_is_refused() {
    let Project { inside, root, _outer: _kept, .. } = project();
    let fifo = std::process::Command::new("mkfifo").arg(inside.join("pipe")).status().unwrap();
    assert!(fifo.success());
    let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
    for path in ["pipe", "socket", "sub", ".", "", "folder"] {
        for error in [root.read(path).unwrap_err(), write(&root, path, true).unwrap_err()] {
            assert!(matches!(error, ToolError::NotAFile { .. }), "{path}: {error}");
        }
    }
    // A link to a device leads out; it is refused before anything is opened.
    symlink("/dev/zero", inside.join("zero")).unwrap();
    assert!(matches!(root.read("zero"), Err(ToolError::Outside { .. })));
}

#[test]
fn what_is_not_there_is_not_found() {
    let Project { root, _outer: _kept, .. } = project();
    for path in ["nothing", "nothing/below", "dangling", "file/below"] {
        assert!(matches!(root.read(path), Err(ToolError::NotFound { .. })), "{path}");
    }
    for path in ["nothing/below", "file/below", "dangling"] {
        assert!(matches!(write(&root, path, false), Err(ToolError::NotFound { .. })), "{path}");
    }
    write(&root, "nothing", false).unwrap();
    assert!(matches!(root.read("loop"), Err(ToolError::Io { .. })));
    assert!(matches!(root.folder("file"), Err(ToolError::NotAFolder { .. })));
}

#[test]
fn a_file_is_replaced_whole_with_its_mode() {
    let Project { inside, root, _outer: _kept, .. } = project();
    std::fs::set_permissions(inside.join("file"), std::fs::Permissions::from_mode(0o750)).unwrap();
    write(&root, "file", false).unwrap();
    assert_eq!(std::fs::metadata(inside.join("file")).unwrap().permissions().mode() & 0o7777, 0o750);
    write(&root, "a/b/c", true).unwrap();
    assert_eq!(std::fs::read_to_string(inside.join("a/b/c")).unwrap(), "new");
    std::fs::set_permissions(inside.join("file"), std::fs::Permissions::from_mode(0o444)).unwrap();
    assert!(matches!(write(&root, "file", false), Err(ToolError::Denied { .. })));
    let names: Vec<_> = std::fs::read_dir(&inside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{names:?}");
}

#[test]
fn sizes_and_binaries_are_refused() {
    let Project { inside, root, _outer: _kept, .. } = project();
    std::fs::write(inside.join("large"), vec![b'x'; 1001]).unwrap();
    std::fs::write(inside.join("nul"), "a\0b").unwrap();
    std::fs::write(inside.join("latin"), b"\xe4").unwrap();
    assert!(matches!(root.read("large"), Err(ToolError::TooLarge { bytes: 1001, limit: 1000, .. })));
    for path in ["nul", "latin"] {
        assert!(matches!(root.read_text(path), Err(ToolError::NotText { .. })), "{path}");
    }
}

/// Swaps a folder for a link that leads out, as fast as it can, while files below it are read and written.
#[test]
fn a_link_swapped_between_check_and_use_leads_nowhere() {
    let Project { outside, inside, root, _outer: _kept } = project();
    std::fs::write(outside.join("file"), "secret").unwrap();
    std::fs::create_dir(inside.join("real")).unwrap();
    std::fs::write(inside.join("real/file"), "mine").unwrap();
    symlink("../outside", inside.join("evil")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for name in ["real", "evil"] {
                    std::fs::rename(inside.join(name), inside.join("swap")).unwrap();
                    std::thread::yield_now();
                    std::fs::rename(inside.join("swap"), inside.join(name)).unwrap();
                }
            }
        });
        let mut read = 0;
        for _ in 0..3_000 {
            if let Ok(content) = root.read("swap/file") {
                assert_ne!(content, b"secret");
                read += 1;
            }
            let _ = write(&root, "swap/file", false);
        }
        over.store(true, Ordering::Relaxed);
        assert!(read > 0, "the swap was never caught in place");
    });
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "secret");
    let left = std::fs::read_dir(&outside).unwrap().count();
    assert_eq!(left, 3);
}
