//! Draws the maps of what was published without them: nobody who decides waits for these.

use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use super::responder::Published;

/// Draws what is undrawn in the newest snapshot, whenever `published_anew` tells that there is one.
/// What has gone out of use meanwhile is left as it is.
pub(super) async fn draw(published: Published, published_anew: Arc<Notify>) {
    loop {
        published_anew.notified().await;
        let undrawn = published.load().undrawn();
        for division in undrawn.iter().filter_map(Weak::upgrade) {
            // One that panics stays undrawn.
            let _failed = spawn_blocking(move || division.draw()).await;
        }
    }
}
