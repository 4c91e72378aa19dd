//! The trait of the builders, which turn settings into a provider.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    ConnectionDetails, Error, KeyIndex, KmsProvider, Result, SecretSource, SecretString,
    config::{ConfigKey, Problems, Settings, SettingsSource},
    layer::{self, LayerOptions},
};

/// Builds a provider from the settings of a CephCluster, the environment and Secrets.
///
/// An implementer parses its settings, reads its Secrets and files, and assembles the provider. The trait calls
/// these steps in a fixed order: it parses nothing before [`check`](Self::check) or [`build`](Self::build), and both
/// report every problem at once.
///
/// `Debug` of a builder shows the names of its settings and never a value, as [`SettingsSource`] does.
#[async_trait]
pub trait ProviderBuilder: fmt::Debug + Default + Send + Sync + Sized + 'static {
    /// The usual name of the KMS, as in "the settings of Vault".
    const TITLE: &'static str;
    /// The prefix of each setting's name in the environment of Rook's pods (rook-behaviour §13.2).
    const ENVIRONMENT_PREFIX: &'static str = "";
    /// The settings that name a Secret or a file. In the environment their value is always a file.
    const ENVIRONMENT_FILES: &'static [Self::Key] = &[];
    /// Whether the provider keeps identifiers in an index. If so, the caller supplies an index if it can.
    const USES_INDEX: bool = false;

    /// The settings of the provider.
    type Key: ConfigKey;
    /// The parsed settings.
    type Parsed: Send + Sync;
    /// The contents of Secrets and files: credentials and certificates.
    type Credentials: Send;
    /// The provider.
    type Provider: KmsProvider;

    /// The settings that the builder has so far.
    fn source(&self) -> &SettingsSource<Self::Key>;

    /// The settings that the builder has so far, mutable.
    fn source_mut(&mut self) -> &mut SettingsSource<Self::Key>;

    /// Parses everything that needs neither Secrets nor files, and checks that credentials are named.
    ///
    /// `None` if a required setting is missing or malformed, which is then in `problems`.
    fn parse(&self, settings: &Settings<Self::Key>, problems: &mut Problems) -> Option<Self::Parsed>;

    /// Reads Secrets and files. `parsed` is `None` if [`parse`](Self::parse) found malformed settings: this still reads
    /// what it can, so that all problems are reported together.
    ///
    /// # Errors
    ///
    /// Those of `secrets` that are not problems of the configuration.
    async fn read(
        &self,
        settings: &Settings<Self::Key>,
        parsed: Option<&Self::Parsed>,
        secrets: &dyn SecretSource,
        problems: &mut Problems,
    ) -> Result<Option<Self::Credentials>>;

    /// Assembles the provider, without a request to the server.
    ///
    /// # Errors
    ///
    /// Those of preparing a connection.
    async fn assemble(
        self,
        settings: Settings<Self::Key>,
        parsed: Self::Parsed,
        credentials: Self::Credentials,
    ) -> Result<Self::Provider>;

    /// Adapts the options of the layers to the provider's own settings.
    fn layer_options(_provider: &Self::Provider, options: LayerOptions) -> LayerOptions {
        options
    }

    /// Sets the CephCluster that the keys belong to, as `namespace/name`. An unknown name is empty.
    ///
    /// If several clusters may share a server, its provider marks each object with the cluster, and leaves the objects
    /// of other clusters alone.
    #[must_use]
    fn with_cluster(self, _cluster: impl Into<String>) -> Self {
        self
    }

    /// Allows `http://` addresses. An attacker on the network can then read credentials and keys.
    #[must_use]
    fn with_allow_http(self, _allow: bool) -> Self {
        self
    }

    /// Sets the token of a Kubernetes service account. If the settings say that each pod logs in with its own account, the
    /// provider logs in with this token and reads no file; otherwise the token is not used.
    #[must_use]
    fn with_account_token(self, _token: &SecretString) -> Self {
        self
    }

    /// Looks a token of the settings up when it is used first, so that its [life](crate::token_life) is known in a short run
    /// too. That costs one request where no other response says it.
    #[must_use]
    fn with_token_lookup(self, _at_once: bool) -> Self {
        self
    }

    /// Sets the index that keeps identifiers; see [`USES_INDEX`](Self::USES_INDEX).
    #[must_use]
    fn with_index(self, _index: Arc<dyn KeyIndex>) -> Self {
        self
    }

    /// A builder without settings.
    #[must_use]
    fn new() -> Self {
        Self::default()
    }

    /// Adds the settings of a CephCluster.
    #[must_use]
    fn with_details(mut self, details: &ConnectionDetails) -> Self {
        self.source_mut().add_details(details);
        self
    }

    /// Sets one setting.
    #[must_use]
    fn with_config(mut self, key: Self::Key, value: impl Into<String>) -> Self {
        self.source_mut().add(key, value);
        self
    }

    /// Adds variables of the environment. They supply the settings that are absent elsewhere.
    ///
    /// Names without [`ENVIRONMENT_PREFIX`](Self::ENVIRONMENT_PREFIX) are ignored.
    #[must_use]
    fn with_environment<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(Self::ENVIRONMENT_PREFIX)?, value)));
        self.source_mut().add_environment(pairs, Self::ENVIRONMENT_FILES);
        self
    }

    /// Sets the name of the Secret with the credentials; an empty text means no Secret.
    #[must_use]
    fn with_token_secret(mut self, name: impl Into<String>) -> Self {
        self.source_mut().set_token_secret(name);
        self
    }

    /// Checks the settings without I/O, and so without the Secrets.
    fn check(&self, problems: &mut Problems) {
        let settings = self.source().settings(problems);
        self.parse(&settings, problems);
    }

    /// Builds the provider. This reads Secrets and files, and sends no request to the server.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with every problem of the settings; otherwise the errors of `secrets`.
    async fn build(self, secrets: &dyn SecretSource) -> Result<Self::Provider> {
        self.build_unless(secrets, Problems::new()).await
    }

    /// Builds the provider as [`build`](Self::build) does, and fails if `problems` is not empty. It reports the
    /// problems that the caller has found together with the problems of the settings.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build).
    async fn build_unless(
        self,
        secrets: &dyn SecretSource,
        mut problems: Problems,
    ) -> Result<Self::Provider> {
        let settings = self.source().settings(&mut problems);
        let parsed = self.parse(&settings, &mut problems);
        let credentials = match self.read(&settings, parsed.as_ref(), secrets, &mut problems).await {
            Ok(credentials) => credentials,
            Err(error) => return Err(problems.with(error)),
        };
        problems.into_result()?;
        match (parsed, credentials) {
            (Some(parsed), Some(credentials)) => self.assemble(settings, parsed, credentials).await,
            _ => Err(Error::config(format!("the settings of {} are not complete", Self::TITLE))),
        }
    }

    /// Builds the provider as [`build_unless`](Self::build_unless) does, in the [standard layers](layer::standard).
    /// `limits` changes their options last.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build).
    async fn connect(
        self,
        secrets: &dyn SecretSource,
        problems: Problems,
        limits: impl FnOnce(LayerOptions) -> LayerOptions + Send,
    ) -> Result<Arc<dyn KmsProvider>> {
        let provider = self.build_unless(secrets, problems).await?;
        let options = limits(Self::layer_options(&provider, LayerOptions::default()));
        Ok(layer::standard(Arc::new(provider), &options))
    }
}

/// Implements [`ProviderBuilder::source`] and [`ProviderBuilder::source_mut`] by a field of the builder.
#[macro_export]
macro_rules! settings_source {
    ($field:ident) => {
        fn source(&self) -> &$crate::config::SettingsSource<Self::Key> {
            &self.$field
        }

        fn source_mut(&mut self) -> &mut $crate::config::SettingsSource<Self::Key> {
            &mut self.$field
        }
    };
}
