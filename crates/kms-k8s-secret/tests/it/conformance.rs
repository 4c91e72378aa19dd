//! The shared suite on a real API server.

use crate::common::{ADMIN_TOKEN, Place, empty_responses};
use kms_conformance::{Options, Subject};
use kms_k8s_secret::KubernetesSecretBuilder;
use kms_kube::{ConnectOptions, connect};
use kms_testkit::{fake::http::Forwarder, figures};

const BAD_TOKEN: &str = "bad-token-Zr9sWq81mB4vTnXc";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: cargo xtask it k8s-secret"]
async fn the_provider_passes_the_suite() {
    let place = Place::new().await;
    // No server listens on port 1.
    let kubeconfig = std::fs::read_to_string(place.kube.kubeconfig()).unwrap();
    let path = place.folder.path().join("unreachable");
    std::fs::write(&path, kubeconfig.replace(place.kube.url(), "https://127.0.0.1:1")).unwrap();
    let unreachable = KubernetesSecretBuilder::new().with_kubeconfig(path).build().await.unwrap();

    let forwarder = Forwarder::start(place.kube.url(), place.kube.ca(), None).await.unwrap();
    let interferer = forwarder.interferer();
    empty_responses().into_iter().for_each(|(habit, response)| interferer.add(habit, response));
    let path = place.folder.path().join("misled");
    place.kube.write_kubeconfig(&path, place.namespace.name(), ADMIN_TOKEN).unwrap();
    let kubeconfig = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, kubeconfig.replace(place.kube.url(), &forwarder.url())).unwrap();
    let options = ConnectOptions::new().with_kubeconfig(path).with_cleartext_allowed();
    let connection = connect(options).await.unwrap();
    let misled = KubernetesSecretBuilder::new().with_client(connection).build().await.unwrap();

    let subject = Subject::new(place.admin().await)
        .with_misled(std::sync::Arc::new(misled), interferer)
        .with_second(place.admin().await)
        .with_unreachable(std::sync::Arc::new(unreachable))
        .with_denied(place.provider(BAD_TOKEN).await);
    // More keys than one page of a list holds.
    let options = Options::default()
        .with_list_count(230)
        .with_secret("the administrator's token", ADMIN_TOKEN)
        .with_secret("the refused token", BAD_TOKEN);
    figures::passed(&kms_conformance::run(&subject, &options).await);
}
