//! Looking around: who is alive on the network and what others answer. For the command line; nodes never need it.
//!
//! Answers come from anybody, so their number and size are bounded, and so is the time they are waited for.

use std::time::Duration;

use tokio::time::timeout;
use zenoh::{liveliness::LivelinessToken, query::ConsolidationMode, query::QueryTarget};

use super::{Bus, BusError};

/// Most tokens or answers of one look.
pub const FOUND_MAX: usize = 20_000;
/// Most bytes of one answer; a longer one is left out.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// What the network may take longer than it was told to.
const GRACE: Duration = Duration::from_millis(250);

/// What somebody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The key it stands for.
    pub key: String,
    /// Zenoh encoding.
    pub encoding: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// A liveliness token of ours; gone when dropped.
pub struct Token {
    _inner: LivelinessToken,
    _bus: Bus,
}

impl Bus {
    /// The liveliness tokens that match a key expression now, as far as they are known within `limit`. The key is taken as it is,
    /// without the namespace.
    ///
    /// # Errors
    /// [`BusError::Topic`] when it is no key expression.
    pub async fn tokens(&self, key: &str, limit: Duration) -> Result<Vec<String>, BusError> {
        let replies = self
            .session
            .liveliness()
            .get(key)
            .timeout(limit)
            .await
            .map_err(|error| refused(key, &error))?;
        let mut found = Vec::new();
        let collect = async {
            while let Ok(reply) = replies.recv_async().await {
                if let Ok(sample) = reply.result() {
                    found.push(sample.key_expr().as_str().to_owned());
                }
                if found.len() >= FOUND_MAX {
                    break;
                }
            }
        };
        // What is known by then is what there is.
        let _late = timeout(limit + GRACE, collect).await;
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// What everybody answers to a `get` within `limit`. The key is taken as it is, without the namespace.
    ///
    /// # Errors
    /// [`BusError::Topic`] when it is no key expression.
    pub async fn ask(&self, key: &str, limit: Duration) -> Result<Vec<Answer>, BusError> {
        let replies = self
            .session
            .get(key)
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .timeout(limit)
            .await
            .map_err(|error| refused(key, &error))?;
        let mut found = Vec::new();
        let collect = async {
            while let Ok(reply) = replies.recv_async().await {
                let Ok(sample) = reply.result() else { continue };
                if sample.payload().len() <= ANSWER_BYTES_MAX {
                    found.push(Answer {
                        key: sample.key_expr().as_str().to_owned(),
                        encoding: sample.encoding().to_string(),
                        payload: sample.payload().to_bytes().into_owned(),
                    });
                }
                if found.len() >= FOUND_MAX {
                    break;
                }
            }
        };
        let _late = timeout(limit + GRACE, collect).await;
        Ok(found)
    }

    /// Declares a liveliness token: whoever looks sees it until it is dropped. The key is taken as it is.
    ///
    /// # Errors
    /// [`BusError::Topic`] when it is no key.
    pub async fn declare_token(&self, key: &str) -> Result<Token, BusError> {
        let inner = self.session.liveliness().declare_token(key.to_owned());
        Ok(Token {
            _inner: inner.await.map_err(|error| refused(key, &error))?,
            _bus: self.clone(),
        })
    }

    /// Id of this session as tokens name it, hexadecimal.
    pub fn session_id(&self) -> String {
        self.session.zid().to_string()
    }
}

fn refused(key: &str, error: &zenoh::Error) -> BusError {
    BusError::Topic {
        topic: key.to_owned(),
        reason: error.to_string(),
    }
}
