//! Where things lie: the workspace and its cache.

use std::path::{Path, PathBuf};

/// The workspace this tool was built in.
pub fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Where cargo puts what it builds: `$CARGO_TARGET_DIR`, else `target` in the workspace.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace_root().join("target"), |dir| workspace_root().join(dir))
}

/// `$EVENKEEL_CACHE`, else `.cache` in the workspace. Everything in it can be built again.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("EVENKEEL_CACHE")
        .map_or_else(|| workspace_root().join(".cache"), PathBuf::from)
}
