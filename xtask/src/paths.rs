//! Where things lie: the workspace and its cache.

use std::path::{Path, PathBuf};

/// The workspace this tool was built in.
pub fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// `$EVENKEEL_CACHE`, else `.cache` in the workspace. Everything in it can be built again.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("EVENKEEL_CACHE")
        .map_or_else(|| workspace_root().join(".cache"), PathBuf::from)
}
