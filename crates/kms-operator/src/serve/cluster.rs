//! Tokens that the cluster itself knows.

use async_trait::async_trait;
use kms_core::{Result, SecretString};
use kms_kube::{Connection, token_user, user_may_get};

use super::access::{Reviewer, Verdict};

/// Asks the API server whose a token is (TokenReview), and whether that user may GET the path as a non-resource URL
/// (SubjectAccessReview).
///
/// The account of the connection needs the right to create both, as the ClusterRole `system:auth-delegator` has it.
#[derive(Clone, Debug)]
pub struct ClusterReviewer {
    connection: Connection,
}

impl ClusterReviewer {
    /// A reviewer over a connection that others may share. Sends nothing.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }
}

#[async_trait]
impl Reviewer for ClusterReviewer {
    async fn review(&self, token: &SecretString, path: &str) -> Result<Verdict> {
        let Some(user) = token_user(&self.connection, token).await? else { return Ok(Verdict::Unknown) };
        let allowed = user_may_get(&self.connection, user, path).await?;
        Ok(if allowed { Verdict::Allowed } else { Verdict::Denied })
    }
}
