//! The names of settings, and the facts about each setting.

use std::fmt;

/// Whether a setting has an effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Support {
    /// The setting has the effect that its documentation describes.
    Supported,
    /// The setting is an error, for this reason. Ignoring it would be worse.
    Refused(&'static str),
    /// The setting is accepted, and has no effect on the keys of OSDs, for this reason.
    NoEffect(&'static str),
}

/// A setting of a provider: one variant of its enum of settings.
pub trait ConfigKey: Copy + fmt::Debug + Ord + Send + Sync + 'static {
    /// Every setting, in the order of the documentation.
    const ALL: &'static [Self];

    /// The name of the setting in `connectionDetails`.
    fn as_str(self) -> &'static str;

    /// Other names of the setting.
    fn aliases(self) -> &'static [&'static str];

    /// Whether the value is a credential.
    fn is_secret(self) -> bool;

    /// The meaning of the setting: one sentence for the table of settings.
    fn doc(self) -> &'static str;

    /// Whether the setting has an effect.
    fn support(self) -> Support;

    /// Finds a setting by its name or an alias, without regard to case.
    fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| {
            key.as_str().eq_ignore_ascii_case(name)
                || key.aliases().iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }
}

/// The facts about one setting, without the type of its provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Setting {
    /// The name in `connectionDetails`.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Whether the value is a credential.
    pub is_secret: bool,
    /// The meaning, in one or more sentences.
    pub meaning: &'static str,
    /// Whether the setting has an effect.
    pub support: Support,
}

impl Setting {
    /// Every setting of a provider, in the order of the documentation.
    pub fn all<K: ConfigKey>() -> Vec<Self> {
        let facts = |key: &K| Self {
            name: key.as_str(),
            aliases: key.aliases(),
            is_secret: key.is_secret(),
            meaning: key.doc().trim(),
            support: key.support(),
        };
        K::ALL.iter().map(facts).collect()
    }
}

/// Defines the enum of a provider's settings, with [`ConfigKey`], `FromStr` and `Display`.
///
/// Each setting has a doc comment, a variant, a name and its aliases, and a `Support` unless it is simply supported.
/// The keyword `secret` marks a credential:
///
/// ```
/// use kms_core::config::{ConfigKey, Support};
///
/// kms_core::config_keys! {
///     /// A setting of the example.
///     pub enum ExampleConfigKey of "Example" {
///         /// Address of the server. Required.
///         Addr = "EXAMPLE_ADDR" | "EXAMPLE_URL";
///         /// Password.
///         Password = secret "EXAMPLE_PASSWORD";
///         /// Second factor.
///         Mfa = "EXAMPLE_MFA", Support::Refused("a program cannot type it");
///     }
/// }
/// assert_eq!("example_url".parse::<ExampleConfigKey>().unwrap(), ExampleConfigKey::Addr);
/// assert!(ExampleConfigKey::Password.is_secret());
/// ```
#[macro_export]
macro_rules! config_keys {
    (@is_secret) => {
        false
    };
    (@is_secret secret) => {
        true
    };
    (
        $(#[doc = $title:literal])+
        pub enum $Key:ident of $provider:literal {
            $(
                $(#[doc = $doc:literal])+
                $Variant:ident = $($secret:ident)? $name:literal $(| $alias:literal)* $(, $support:expr)?;
            )*
        }
    ) => {
        $(#[doc = $title])+
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum $Key {
            $($(#[doc = $doc])+ $Variant,)*
        }

        impl $crate::config::ConfigKey for $Key {
            const ALL: &'static [Self] = &[$(Self::$Variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)*
                }
            }

            fn aliases(self) -> &'static [&'static str] {
                match self {
                    $(Self::$Variant => &[$($alias),*],)*
                }
            }

            fn is_secret(self) -> bool {
                match self {
                    $(Self::$Variant => $crate::config_keys!(@is_secret $($secret)?),)*
                }
            }

            fn doc(self) -> &'static str {
                match self {
                    $(Self::$Variant => ::core::concat!($($doc),+),)*
                }
            }

            fn support(self) -> $crate::config::Support {
                match self {
                    $($(Self::$Variant => $support,)?)*
                    #[allow(unreachable_patterns, reason = "each setting may have said it")]
                    _ => $crate::config::Support::Supported,
                }
            }
        }

        impl ::core::str::FromStr for $Key {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                <Self as $crate::config::ConfigKey>::find(name).ok_or_else(|| {
                    $crate::Error::config(::std::format!("{name} is not a setting of {}", $provider))
                })
            }
        }

        impl ::core::fmt::Display for $Key {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str($crate::config::ConfigKey::as_str(*self))
            }
        }
    };
}
