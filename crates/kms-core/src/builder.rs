//! From settings to a provider: what the builders of all providers have in common.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    ConnectionDetails, Error, KeyIndex, KmsProvider, Result, SecretSource,
    config::{ConfigKey, Problems, Settings, SettingsSource},
    layer::{self, LayerOptions},
};

/// Builds a provider from the settings of a CephCluster, the environment and Secrets.
///
/// An implementer states how its settings are parsed, which Secrets and files it reads, and how the provider is put
/// together. The trait does the rest in a fixed order: nothing is parsed before [`check`](Self::check) or
/// [`build`](Self::build), and each reports every problem at once.
///
/// `Debug` of a builder shows the names of its settings and never a value, as [`SettingsSource`] does.
#[async_trait]
pub trait ProviderBuilder: fmt::Debug + Default + Send + Sync + Sized + 'static {
    /// What people call the KMS, as in "the settings of Vault".
    const TITLE: &'static str;
    /// What Rook puts before the name of each setting in the environment of its pods (rook-behaviour §13.2).
    const ENVIRONMENT_PREFIX: &'static str = "";
    /// Settings that name a Secret or a file. In the environment their value is always a file.
    const ENVIRONMENT_FILES: &'static [Self::Key] = &[];
    /// Whether the provider keeps identifiers in an index: then the caller makes one where it can.
    const USES_INDEX: bool = false;

    /// The settings of the provider.
    type Key: ConfigKey;
    /// What the settings say, parsed.
    type Parsed: Send + Sync;
    /// What Secrets and files say: credentials and certificates.
    type Credentials: Send;
    /// The provider.
    type Provider: KmsProvider;

    /// The settings that were given so far.
    fn source(&self) -> &SettingsSource<Self::Key>;

    /// The settings that were given so far, to add to.
    fn source_mut(&mut self) -> &mut SettingsSource<Self::Key>;

    /// Parses everything that needs neither Secrets nor files, and checks that credentials are named.
    ///
    /// `None` if something that is needed is missing or malformed; that is in `problems` then.
    fn parse(&self, settings: &Settings<Self::Key>, problems: &mut Problems) -> Option<Self::Parsed>;

    /// Reads Secrets and files. `parsed` is `None` if [`parse`](Self::parse) found that the settings are malformed;
    /// what can be read is read all the same, so that its problems are reported together.
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

    /// Puts the provider together. The server is not asked yet.
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

    /// The options of the layers, changed as the provider's own settings say.
    fn layer_options(_provider: &Self::Provider, options: LayerOptions) -> LayerOptions {
        options
    }

    /// Says which CephCluster the keys belong to, as `namespace/name`. The name may be empty where it is not known.
    ///
    /// A provider whose server several clusters may share writes it to its objects and leaves those of other clusters
    /// alone.
    #[must_use]
    fn with_cluster(self, _cluster: impl Into<String>) -> Self {
        self
    }

    /// Allows `http://` addresses, over which everybody on the way can read credentials and keys.
    #[must_use]
    fn with_allow_http(self, _allow: bool) -> Self {
        self
    }

    /// Keeps identifiers in this index; see [`USES_INDEX`](Self::USES_INDEX).
    #[must_use]
    fn with_index(self, _index: Arc<dyn KeyIndex>) -> Self {
        self
    }

    /// A builder without settings.
    #[must_use]
    fn new() -> Self {
        Self::default()
    }

    /// Takes the settings of a CephCluster.
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

    /// Takes from these variables of the environment the settings that are not given otherwise.
    ///
    /// Names without [`ENVIRONMENT_PREFIX`](Self::ENVIRONMENT_PREFIX) are passed over.
    #[must_use]
    fn with_environment<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let pairs = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(Self::ENVIRONMENT_PREFIX)?, value)));
        self.source_mut().add_environment(pairs, Self::ENVIRONMENT_FILES);
        self
    }

    /// Names the Secret with the credentials; the empty text names none.
    #[must_use]
    fn with_token_secret(mut self, name: impl Into<String>) -> Self {
        self.source_mut().set_token_secret(name);
        self
    }

    /// Checks the settings without I/O and without asking for any Secret.
    fn check(&self, problems: &mut Problems) {
        let settings = self.source().settings(problems);
        self.parse(&settings, problems);
    }

    /// Builds the provider. Secrets and files are read, the server is not asked yet.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with every problem of the settings; otherwise those of `secrets`.
    async fn build(self, secrets: &dyn SecretSource) -> Result<Self::Provider> {
        self.build_unless(secrets, Problems::new()).await
    }

    /// Builds the provider as [`build`](Self::build) does, and fails if `problems` has any: those that the caller has
    /// found are reported together with those of the settings.
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
    /// `limits` has the last word on their options.
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

/// Implements [`ProviderBuilder::source`] and [`ProviderBuilder::source_mut`] with a field of the builder.
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
