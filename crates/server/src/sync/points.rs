//! Named points before and after every effect and every write, where a test may stop the program for good.
//!
//! In production the hook is absent and a point costs one comparison.

use std::sync::Arc;

/// Called with the name of a point; answers whether the program dies here.
pub type Hook = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The points of one actor.
#[derive(Clone, Default)]
pub struct Points(Option<Hook>);

impl std::fmt::Debug for Points {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Points").field(&self.0.is_some()).finish()
    }
}

impl Points {
    /// Points that call a hook.
    pub fn hooked(hook: Hook) -> Self {
        Self(Some(hook))
    }

    /// Passes a point. If the hook says so it never returns: whoever set the hook drops the actor.
    pub async fn pass(&self, verb: &str, side: &str) {
        if let Some(hook) = &self.0
            && hook(&format!("{verb}:{side}"))
        {
            std::future::pending::<()>().await;
        }
    }
}
