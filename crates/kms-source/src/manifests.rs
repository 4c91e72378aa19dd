//! Reads a CephCluster and Secrets from YAML documents, such as those in Rook's documentation.

use std::fmt;

use async_trait::async_trait;
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use kms_core::{Error, ErrorKind, Result, SecretData, SecretSource, SecuritySpec};
use kms_kube::{CephCluster, CephClusterSpec, did_you_mean, misspelt};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::{
    Entries,
    yaml::{self, Mistake, Node, Value},
};

/// Base64 with or without padding, since some editors and scripts lose the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A CephCluster and Secrets from YAML documents.
///
/// A document may have the `security` block on its own: under `spec:`, as `security:`, or only its fields (`kms:` and
/// `keyRotation:`). It is then the block of a CephCluster without a name.
#[derive(Debug, Default)]
pub struct Manifests {
    inputs: Vec<String>,
    /// The cluster, and the place of its document.
    cluster: Option<(String, CephCluster)>,
    /// The namespace of the cluster, if the document has its name and namespace.
    kube_namespace: Option<String>,
    secrets: Vec<Found>,
    ignored: Vec<String>,
    /// The kinds of the objects to keep for the caller.
    wanted: Vec<String>,
    objects: Vec<Kept>,
}

/// An object that is kept for the caller.
struct Kept {
    kind: String,
    place: String,
    node: Node,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, place, node: _ } = self;
        f.debug_struct("Kept").field("kind", kind).field("place", place).finish_non_exhaustive()
    }
}

/// A Secret, and the place of its document.
#[derive(Debug)]
struct Found {
    place: String,
    kube_namespace: Option<String>,
    name: String,
    entries: Entries,
}

impl Manifests {
    /// Reads inputs with their names. An input may have several documents, and a document may be a list.
    ///
    /// The result has no copy of the YAML. The parser makes copies while it works, though: only an allocator that wipes
    /// freed memory ensures that no part of a Secret stays in memory.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` with file, line and column for unreadable input, and for a second CephCluster, `security` block
    /// or Secret of the same name. No error quotes an input.
    pub fn parse<'a>(inputs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self> {
        Self::parse_keeping(inputs, &[])
    }

    /// Reads inputs as `parse` does, and keeps objects of these kinds for [`take_objects`](Self::take_objects).
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_keeping<'a>(
        inputs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        kinds: &[&str],
    ) -> Result<Self> {
        let wanted = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let mut manifests = Self { wanted, ..Self::default() };
        for (input, bytes) in inputs {
            manifests.inputs.push(input.to_owned());
            manifests.add(input, bytes).map_err(|mistake| mistake.in_input(input))?;
        }
        Ok(manifests)
    }

    /// The `security` block; `None` without a CephCluster or block. A CephCluster without one has an empty block.
    pub fn security(&self) -> Option<&SecuritySpec> {
        self.cluster().map(|cluster| &cluster.spec.security)
    }

    /// The CephCluster, or a `security` block on its own; `None` if the documents have neither.
    ///
    /// It never has a uid: a document may be older than the cluster, and Kubernetes deletes a Secret whose owner does
    /// not exist, with the key in it.
    pub fn cluster(&self) -> Option<&CephCluster> {
        self.cluster.as_ref().map(|(_, cluster)| cluster)
    }

    /// Removes and returns the CephCluster.
    pub fn take_cluster(&mut self) -> Option<CephCluster> {
        self.cluster.take().map(|(_, cluster)| cluster)
    }

    /// Removes and returns the kept objects of a kind: the place of each, and the object read as `T` or an error.
    pub fn take_objects<T: DeserializeOwned>(&mut self, kind: &str) -> Vec<(String, Result<T>)> {
        let (found, others) =
            std::mem::take(&mut self.objects).into_iter().partition(|kept| kept.kind == kind);
        self.objects = others;
        let read = |Kept { place, node, .. }: Kept| {
            let object = node.read().map_err(|mistake| mistake.in_input(input_of(&place)));
            (place, object)
        };
        Vec::into_iter(found).map(read).collect()
    }

    /// The ignored documents, with their kinds and places.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.ignored.iter().map(String::as_str)
    }

    fn add(&mut self, input: &str, bytes: &[u8]) -> Result<(), Mistake> {
        if bytes.len() > yaml::MAX_BYTES {
            return Err(Mistake::new(format!(
                "it has {} bytes; the limit is {}",
                bytes.len(),
                yaml::MAX_BYTES
            )));
        }
        let text = std::str::from_utf8(bytes).map_err(|_error| Mistake::new("it is not UTF-8 text"))?;
        for (at, document) in yaml::parse(text)?.into_iter().enumerate() {
            self.add_document(&format!("{input}, document {}", at + 1), document)?;
        }
        Ok(())
    }

    fn add_document(&mut self, place: &str, document: Node) -> Result<(), Mistake> {
        if document.is_null() {
            return Ok(());
        }
        let has = |field: &str| document.get(field).is_some();
        match document.get("kind").map(|kind| kind.text().unwrap_or_default()) {
            Some("CephCluster") => {
                check_spelling("CephCluster", &document, "spec")?;
                check_spec(&document)?;
                // Metadata that is not a map cannot name a cluster.
                let read = |field: &str, node: &Node| field != "metadata" || node.is_map();
                self.add_cluster(place, document.keep(read).read()?)
            }
            Some("Secret") => self.add_secret(place, document),
            Some(kind) if kind.ends_with("List") && has("items") => {
                let Some(items) = take(document.into_map()?, "items") else { return Ok(()) };
                match items.value {
                    Value::List(items) => {
                        items.into_iter().try_for_each(|item| self.add_document(place, item))
                    }
                    Value::Null => Ok(()),
                    _ => Err(items.mistake("items is not a list")),
                }
            }
            Some(kind) if self.wanted.iter().any(|wanted| wanted == kind) => {
                let kept = Kept { kind: kind.to_owned(), place: place.to_owned(), node: document };
                self.objects.push(kept);
                Ok(())
            }
            Some(kind) => {
                // A kind is an identifier. A longer text may be something else, perhaps a secret, and is not quoted.
                let kind = if kind.len() <= 63 { kind } else { "object" };
                self.ignored.push(format!("{kind} in {place}"));
                Ok(())
            }
            None if has("security") => {
                let spec = document.keep(|field, _| field == "security").read()?;
                self.add_spec(place, spec)
            }
            None if has("spec") => {
                check_spec(&document)?;
                self.add_cluster(place, document.keep(|field, _| field == "spec").read()?)
            }
            None if has("kms") || has("keyRotation") => {
                let security = document.read()?;
                self.add_spec(place, CephClusterSpec::new(security))
            }
            None => Err(document.mistake(
                "this is neither a Kubernetes object with a kind, nor a security block (security:, spec:, or \
                 kms: and keyRotation:)",
            )),
        }
    }

    fn add_spec(&mut self, place: &str, spec: CephClusterSpec) -> Result<(), Mistake> {
        let mut cluster = CephCluster::default();
        cluster.spec = spec;
        self.add_cluster(place, cluster)
    }

    fn add_cluster(&mut self, place: &str, cluster: CephCluster) -> Result<(), Mistake> {
        if let Some((first, _)) = &self.cluster {
            return Err(Mistake::new(format!(
                "there are two CephClusters or security blocks, in {first} and in {place}: remove one of them"
            )));
        }
        self.kube_namespace = cluster.reference.as_ref().map(|reference| reference.kube_namespace.clone());
        self.cluster = Some((place.to_owned(), cluster));
        Ok(())
    }

    fn add_secret(&mut self, place: &str, document: Node) -> Result<(), Mistake> {
        let meta = |field: &str| document.get("metadata").and_then(|meta| meta.get(field)?.text());
        let Some(name) = meta("name").filter(|name| !name.is_empty()).map(str::to_owned) else {
            return Err(document.mistake("this Secret has no metadata.name"));
        };
        let kube_namespace = meta("namespace").map(str::to_owned);
        if let Some(first) =
            self.secrets.iter().find(|found| found.name == name && found.kube_namespace == kube_namespace)
        {
            return Err(Mistake::new(format!(
                "Secret {name:?} is given twice, in {} and in {place}: remove one of them",
                first.place
            )));
        }
        let mut entries = Entries::default();
        let mut plain = None;
        for (field, node) in document.into_map()? {
            match field.as_str() {
                "data" => {
                    for (key, node) in node.into_map()? {
                        entries.insert(&*key, decode(&key, &node)?);
                    }
                }
                "stringData" => plain = Some(node),
                _ => {}
            }
        }
        // stringData wins whatever the order in the document, as in the API server.
        for (key, node) in plain.map_or_else(|| Ok(Vec::new()), Node::into_map)? {
            let text = text_of(&format!("stringData.{key}"), &node)?;
            entries.insert(key, text.as_bytes().to_vec());
        }
        self.secrets.push(Found { place: place.to_owned(), kube_namespace, name, entries });
        Ok(())
    }

    fn find(&self, name: &str) -> Result<&Found> {
        let home = self.kube_namespace.as_deref();
        let mut elsewhere = None;
        let mut fits = Vec::new();
        for found in self.secrets.iter().filter(|found| found.name == name) {
            match (found.kube_namespace.as_deref(), home) {
                (Some(other), Some(home)) if other != home => elsewhere = Some((other, home)),
                (Some(_), Some(_)) => return Ok(found),
                _ => fits.push(found),
            }
        }
        match (fits.as_slice(), elsewhere) {
            ([found], _) => Ok(found),
            ([], Some((other, home))) => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "Secret {name:?} is given for the namespace {other:?}, but the cluster is in {home:?}, and \
                     only Secrets of its own namespace count"
                ),
            )),
            ([], None) => Err(Error::new(
                ErrorKind::NotFound,
                format!("Secret {name:?} was not found in {}", self.inputs.join(", ")),
            )),
            ([first, second, ..], _) => Err(Error::config(format!(
                "Secret {name:?} is given for several namespaces, in {} and in {}: remove all but one",
                first.place, second.place
            ))),
        }
    }
}

#[async_trait]
impl SecretSource for Manifests {
    async fn secret(&self, name: &str) -> Result<SecretData> {
        self.find(name).map(|found| found.entries.to_secret(name))
    }
}

/// The name of the input in a place, for errors that have a line.
fn input_of(place: &str) -> &str {
    place.rsplit_once(", document ").map_or(place, |(input, _)| input)
}

fn take(fields: Vec<(String, Node)>, name: &str) -> Option<Node> {
    fields.into_iter().find(|(field, _)| field == name).map(|(_, node)| node)
}

/// Checks the spelling of the `security` block of a document with a `spec`.
fn check_spec(document: &Node) -> Result<(), Mistake> {
    document.get("spec").map_or(Ok(()), |spec| check_spelling("spec", spec, "security"))
}

/// Checks that no field looks like a misspelling of a field whose absence has a meaning.
///
/// This runs before the map is read: a misspelt `security` block may have credentials, and the reader of a `spec`
/// copies unknown fields.
fn check_spelling(block: &str, map: &Node, known: &'static str) -> Result<(), Mistake> {
    let Some(field) = misspelt(known, map.fields().iter().map(|(field, _)| field.as_str())) else {
        return Ok(());
    };
    Err(map.get(field).unwrap_or(map).mistake(did_you_mean(block, field, known)))
}

fn text_of<'a>(field: &str, node: &'a Node) -> Result<&'a str, Mistake> {
    match &node.value {
        Value::Text(text) => Ok(text),
        Value::Null => Ok(""),
        other => {
            Err(node
                .mistake(format!("{field} is {}, and must be a text: put its value in quotes", other.kind())))
        }
    }
}

/// Decodes an entry of `data`. It ignores white space, since `base64` and editors break long lines.
fn decode(key: &str, node: &Node) -> Result<Vec<u8>, Mistake> {
    let text = text_of(&format!("data.{key}"), node)?;
    let compact: Zeroizing<Vec<u8>> =
        Zeroizing::new(text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
    // The error of the decoder shows a byte of the text, so it is dropped.
    BASE64.decode(&*compact).map_err(|_error| {
        node.mistake(format!("data.{key} is not base64: encode it, or move it to stringData as plain text"))
    })
}

#[cfg(test)]
mod tests {
    use kms_kube::ClusterRef;

    use super::*;

    #[test]
    fn what_is_wanted_is_kept_as_it_is_with_its_place() {
        let inputs = [
            (
                "a.yaml",
                &b"kind: CephCluster\nspec: {mon: {count: 3}, labels: {all: {a: b}}, security: {kms: {}}}"[..],
            ),
            (
                "b.yaml",
                b"kind: List\nitems: [{kind: D, n: -1, f: 1.5, l: [true, null]}, {kind: D, n: x}, {kind: E}]",
            ),
        ];
        let mut manifests = Manifests::parse_keeping(inputs, &["D"]).unwrap();
        assert_eq!(manifests.ignored().collect::<Vec<_>>(), ["E in b.yaml, document 1"]);
        let cluster = manifests.take_cluster().unwrap();
        assert_eq!(
            cluster.spec.job_labels.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "b".to_owned())]
        );
        assert!(manifests.security().is_none());

        #[derive(serde::Deserialize)]
        struct D {
            n: i64,
            f: f64,
            l: Vec<Option<bool>>,
        }
        let mut found = manifests.take_objects::<D>("D").into_iter();
        let (place, first) = found.next().unwrap();
        let D { n, f, l } = first.unwrap();
        assert_eq!((place.as_str(), n, f, l), ("b.yaml, document 1", -1, 1.5, vec![Some(true), None]));
        let error = found.next().unwrap().1.err().unwrap();
        assert!(error.to_string().starts_with("b.yaml:2:"), "{error}");
        assert!(found.next().is_none() && manifests.take_objects::<D>("D").is_empty());
    }

    const CLUSTER: &str = "
apiVersion: ceph.rook.io/v1
kind: CephCluster
metadata: {name: my, namespace: rook-ceph, uid: 1-2}
spec:
  storage:
    storageClassDeviceSets:
      - {name: set1, encrypted: true}
      - {name: set2}
  security:
    keyRotation: {enabled: true}
    kms:
      connectionDetails: {KMS_PROVIDER: vault, VAULT_ADDR: https://v, VAULT_SKIP_VERIFY: true}
      tokenSecretName: t
";

    fn parse(inputs: &[&str]) -> Result<Manifests> {
        let names = ["a.yaml", "b.yaml", "c.yaml"];
        Manifests::parse(names.into_iter().zip(inputs.iter().map(|text| text.as_bytes())))
    }

    fn address(manifests: &Manifests) -> Option<&str> {
        manifests.security()?.kms.connection_details.get("VAULT_ADDR")
    }

    #[test]
    fn a_ceph_cluster_gives_its_security_block_and_itself() {
        let manifests = parse(&[CLUSTER]).unwrap();
        let cluster = manifests.cluster().unwrap();
        assert_eq!(cluster.reference, Some(ClusterRef::new("rook-ceph", "my")));
        let security = manifests.security().unwrap();
        assert!(security.key_rotation.enabled);
        assert_eq!(security.kms.token_secret_name, "t");
        assert_eq!(address(&manifests), Some("https://v"));
        let mut problems = kms_core::config::Problems::new();
        security.check(&mut problems);
        assert_eq!(
            problems.iter().collect::<Vec<_>>(),
            ["VAULT_SKIP_VERIFY is a boolean, and every setting has to be a string: put its value in quotes"]
        );
        let sets = cluster.spec.device_sets.iter().flatten();
        let sets: Vec<_> = sets.map(|set| (set.name.as_str(), set.encrypted)).collect();
        assert_eq!(sets, [("set1", true), ("set2", false)]);
    }

    #[test]
    fn what_is_unknown_in_a_security_block_is_reported_with_a_suggestion() {
        let manifests = parse(&[
            "security: {cephx: {daemon: {}}, kmss: {a: canary}, keyRotaton: , other: canary, Kms: {}}",
        ])
        .unwrap();
        let mut problems = kms_core::config::Problems::new();
        manifests.security().unwrap().check(&mut problems);
        assert_eq!(
            problems.iter().collect::<Vec<_>>(),
            [
                "security.Kms is not known; did you mean kms?",
                "security.keyRotaton is not known; did you mean keyRotation?",
                "security.kmss is not known; did you mean kms?",
                "security.other is not known; known are: kms, keyRotation, cephx",
            ]
        );
    }

    #[test]
    fn a_cluster_that_is_being_deleted_says_so() {
        let cluster = |time: &str| format!("kind: CephCluster\nmetadata: {{deletionTimestamp: {time}}}\n");
        let is_deleted =
            |time: &str| parse(&[&cluster(time)]).unwrap().cluster().is_some_and(|cluster| cluster.deleting);
        assert!(is_deleted("2026-01-01T00:00:00Z"));
        assert!(!is_deleted("null"));
    }

    #[test]
    fn a_security_block_may_stand_alone_in_three_forms() {
        for text in [
            "spec: {security: {kms: {connectionDetails: {VAULT_ADDR: x}}}}",
            "security: {kms: {connectionDetails: {VAULT_ADDR: x}}}",
            "kms: {connectionDetails: {VAULT_ADDR: x}}",
            "# a comment\n---\n---\nkms: {connectionDetails: {VAULT_ADDR: x}}\nkeyRotation:\n---\n",
            "{\"items\": [{\"kind\": \"CephCluster\", \"spec\": {\"security\": {\"kms\": {\"connectionDetails\": \
             {\"VAULT_ADDR\": \"x\"}}}}}], \"kind\": \"List\"}",
        ] {
            assert_eq!(address(&parse(&[text]).unwrap()), Some("x"), "{text}");
        }
        for text in [
            "kind: CephCluster",
            "kind: CephCluster\nmetadata: x",
            "kind: CephCluster\nspec: {security: }",
            "spec:",
            "security:",
        ] {
            let manifests = parse(&[text]).unwrap();
            assert!(manifests.security().unwrap().kms.connection_details.is_empty(), "{text}");
        }
    }

    #[tokio::test]
    async fn secrets_have_data_and_string_data_which_wins() {
        let secret = "
kind: Secret
stringData: {token: from-text}
data:
  token: ZnJvbS1kYXRh
  long: |
    YWJj
    ZGVm
  bare: YQ
  empty: ''
metadata: {name: t}
";
        let manifests = parse(&[CLUSTER, secret]).unwrap();
        let read = manifests.secret("t").await.unwrap();
        assert_eq!(read.bytes("token").unwrap(), b"from-text");
        assert_eq!(read.bytes("long").unwrap(), b"abcdef");
        assert_eq!(read.bytes("bare").unwrap(), b"a");
        assert!(read.bytes("empty").is_err());
        let error = manifests.secret("other").await.unwrap_err();
        assert_eq!(error.to_string(), r#"Secret "other" was not found in a.yaml, b.yaml"#);
        assert!(!format!("{manifests:?}").contains("from-text"));
    }

    #[tokio::test]
    async fn only_secrets_of_the_clusters_namespace_count() {
        let secret = |namespace: &str| {
            format!(
                "kind: Secret\nmetadata: {{name: t, namespace: {namespace}}}\nstringData: {{token: {namespace}}}\n"
            )
        };
        let (ours, theirs) = (secret("rook-ceph"), secret("other"));
        let manifests = parse(&[CLUSTER, &theirs, &ours]).unwrap();
        assert_eq!(manifests.secret("t").await.unwrap().bytes("token").unwrap(), b"rook-ceph");
        let error = parse(&[CLUSTER, &theirs]).unwrap().secret("t").await.unwrap_err();
        assert!(
            error.to_string().contains(r#"namespace "other", but the cluster is in "rook-ceph""#),
            "{error}"
        );
        let error = parse(&[&ours, &theirs]).unwrap().secret("t").await.unwrap_err();
        assert!(error.to_string().contains("several namespaces"), "{error}");
    }

    #[test]
    fn other_kinds_are_skipped_and_reported() {
        let manifests =
            parse(&["kind: CephObjectStore\nspec: {security: {kms: 1}}\n---\nkind: Pod\n"]).unwrap();
        assert!(manifests.security().is_none());
        assert_eq!(
            manifests.ignored().collect::<Vec<_>>(),
            ["CephObjectStore in a.yaml, document 1", "Pod in a.yaml, document 2"]
        );
    }

    #[test]
    fn duplicates_and_mistakes_are_reported_with_their_place() {
        let secret = "kind: Secret\nmetadata: {name: t}\n";
        for (inputs, message) in [
            (
                &[CLUSTER, "x:\n---\nsecurity:\n"][..],
                "b.yaml:1:1: this is neither a Kubernetes object with a kind, nor a security block (security:, \
                 spec:, or kms: and keyRotation:)",
            ),
            (
                &[CLUSTER, "---\nsecurity:\n"],
                "b.yaml: there are two CephClusters or security blocks, in a.yaml, document 1 and in b.yaml, \
                 document 1: remove one of them",
            ),
            (
                &[secret, secret],
                "b.yaml: Secret \"t\" is given twice, in a.yaml, document 1 and in b.yaml, document 1: remove \
                 one of them",
            ),
            (
                &["kind: Secret\nmetadata: {name: t}\ndata: {token: 'canary!'}\n"],
                "a.yaml:3:15: data.token is not base64: encode it, or move it to stringData as plain text",
            ),
            (
                &["kind: Secret\nmetadata: {name: t}\nstringData: {token: 123}\n"],
                "a.yaml:3:21: stringData.token is a number, and must be a text: put its value in quotes",
            ),
            (
                &["kind: Secret\nstringData: {token: canary}\n"],
                "a.yaml:1:1: this Secret has no metadata.name",
            ),
            (
                &["security:\n  kms:\n    connectionDetails: canary\n"],
                "a.yaml:3:24: this is a text, not a map of settings to strings",
            ),
            (&["security: canary"], "a.yaml:1:11: this is a text, not a map of kms and keyRotation"),
            (
                &["security:\n  kms: [canary]"],
                "a.yaml:2:8: this is a list, not a map of connectionDetails and tokenSecretName",
            ),
            (
                &["kind: CephCluster\nspec:\n  securty: {kms: {connectionDetails: {a: canary}}}"],
                "a.yaml:3:12: spec.securty is not known; did you mean security?",
            ),
            (
                &["spec: {storage: {}, Security: canary}"],
                "a.yaml:1:31: spec.Security is not known; did you mean security?",
            ),
            (&["kind: CephCluster\nspec: [canary]"], "a.yaml:2:7: this is a list, not a map"),
            (
                &["kind: CephCluster\nsepc: {security: canary}"],
                "a.yaml:2:7: CephCluster.sepc is not known; did you mean spec?",
            ),
            (
                &["security:\n  keyRotation: {enabled: canary}\n"],
                "a.yaml:2:26: this is a text, not a boolean",
            ),
            (
                &["canary"],
                "a.yaml:1:1: this is neither a Kubernetes object with a kind, nor a security block \
                 (security:, spec:, or kms: and keyRotation:)",
            ),
        ] {
            let error = parse(inputs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert_eq!(error.to_string(), message);
        }
        let large = " ".repeat(yaml::MAX_BYTES + 1);
        assert_eq!(
            parse(&[&large]).unwrap_err().to_string(),
            "a.yaml: it has 134217729 bytes; the limit is 134217728"
        );
        let error = Manifests::parse([("a.yaml", &b"\xff\xfe"[..])]).unwrap_err();
        assert_eq!(error.to_string(), "a.yaml: it is not UTF-8 text");
    }
}
