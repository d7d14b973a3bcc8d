//! Progress that may be handed to another thread, or kept beyond a call.

use std::sync::Arc;

use unpacker::progress::Progress;

/// Whoever watches a long verb.
pub type Reporter = Arc<dyn Progress>;
