//! The double of Entra ID and Key Vault is as strict as they are.

use std::time::{Duration, Instant};

use kms_testkit::{
    fake::azure::{Azure, CLIENT, CLIENT_SECRET, TENANT},
    servers::Pki,
};
use serde_json::Value;

struct Raw {
    double: Azure,
    client: reqwest::Client,
}

impl Raw {
    async fn start() -> Self {
        let double = Azure::start().await.unwrap();
        let config = Pki::client_config(double.ca(), None).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config).build().unwrap();
        Self { double, client }
    }

    async fn token(&self, tenant: &str, pairs: &[(&str, &str)]) -> (u16, Value) {
        let body = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let url = format!("{}/{tenant}/oauth2/v2.0/token", self.double.authority());
        let request = self.client.post(url).header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    async fn vault(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let url = format!("{}{path}", self.double.vault_url());
        let mut request = self.client.request(method.parse().unwrap(), url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let answer = request.send().await.unwrap();
        let challenge =
            answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), challenge.unwrap_or_default() + &answer.text().await.unwrap())
    }
}

const SCOPE: (&str, &str) = ("scope", "https%3A%2F%2Fvault.azure.net%2F.default");
const GRANT: (&str, &str) = ("grant_type", "client_credentials");

#[tokio::test]
async fn entra_refuses_what_is_wrong_with_its_number() {
    let raw = Raw::start().await;
    let good = [GRANT, SCOPE, ("client_id", CLIENT), ("client_secret", CLIENT_SECRET)];
    assert_eq!(raw.token(TENANT, &good).await.0, 200);
    let jwt = ("client_assertion_type", "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer");
    for (tenant, pairs, number) in [
        ("99999999-9999-9999-9999-999999999999", good.to_vec(), 90002),
        (TENANT, vec![SCOPE, good[2], good[3]], 70003),
        (TENANT, vec![GRANT, SCOPE, ("client_id", TENANT), good[3]], 700_016),
        (TENANT, vec![GRANT, ("scope", "x"), good[2], good[3]], 1_002_012),
        (TENANT, vec![GRANT, SCOPE, good[2], ("client_secret", "wrong")], 7_000_215),
        (TENANT, vec![GRANT, SCOPE, good[2]], 7_000_218),
        (TENANT, vec![GRANT, SCOPE, good[2], jwt, ("client_assertion", "x")], 50027),
        (TENANT, vec![GRANT, SCOPE, good[2], jwt, ("client_assertion", "e30.e30.e30")], 700_027),
    ] {
        let (status, body) = raw.token(tenant, &pairs).await;
        assert!(status == 400 || status == 401, "{status}");
        assert_eq!(body["error_codes"][0], number, "{body}");
    }
}

#[tokio::test]
async fn the_vault_refuses_what_is_wrong_with_its_code() {
    let raw = Raw::start().await;
    let pairs = [GRANT, SCOPE, ("client_id", CLIENT), ("client_secret", CLIENT_SECRET)];
    let (_, body) = raw.token(TENANT, &pairs).await;
    let token = body["access_token"].as_str();
    let api = "?api-version=7.4";
    for (method, path, token, body, status, words) in [
        ("GET", format!("/secrets/a{api}"), None, "", 401, "authorization=\"https://localhost"),
        ("GET", format!("/secrets/a{api}"), Some("x.y.z"), "", 401, "invalid_token"),
        ("GET", "/secrets/a".to_owned(), token, "", 400, "api-version"),
        ("GET", "/secrets/a?api-version=1.0".to_owned(), token, "", 400, "not supported"),
        ("PUT", format!("/secrets/a.b{api}"), token, r#"{"value":"x"}"#, 400, "invalid name"),
        ("PUT", format!("/secrets/{}{api}", "a".repeat(128)), token, r#"{"value":"x"}"#, 400, "invalid name"),
        ("PUT", format!("/secrets/a{api}"), token, "{}", 400, "value"),
        ("PUT", format!("/secrets/a{api}"), token, r#"{"value":"x"}"#, 200, "\"value\":\"x\""),
        ("GET", format!("/secrets/A/{api}"), token, "", 200, "\"value\":\"x\""),
        ("GET", format!("/secrets/a/0{api}"), token, "", 404, "SecretNotFound"),
        ("GET", format!("/secrets{api}&maxresults=26"), token, "", 400, "maxresults"),
        ("POST", format!("/deletedsecrets/a/recover{api}"), token, "", 404, "SecretNotFound"),
        ("DELETE", format!("/secrets/a{api}"), token, "", 200, "recoveryId"),
        ("GET", format!("/secrets/a/{api}"), token, "", 404, "SecretNotFound"),
        ("PUT", format!("/secrets/a{api}"), token, r#"{"value":"x"}"#, 409, "ObjectIsDeletedButRecoverable"),
        ("DELETE", format!("/deletedsecrets/a{api}"), token, "", 204, ""),
        ("GET", format!("/deletedsecrets/a{api}"), token, "", 404, "SecretNotFound"),
    ] {
        let (found, text) = raw.vault(method, &path, token, body).await;
        assert_eq!(found, status, "{method} {path}: {text}");
        assert!(text.contains(words), "{method} {path}: {text}");
    }
    raw.double.advance(Duration::from_secs(3_600));
    assert_eq!(raw.vault("GET", &format!("/secrets/a{api}"), token, "").await.0, 401);
}

#[tokio::test]
async fn time_passes_while_nothing_happens_and_not_while_a_request_is_under_way() {
    let raw = Raw::start().await;
    let pairs = [GRANT, SCOPE, ("client_id", CLIENT), ("client_secret", CLIENT_SECRET)];
    let (_, body) = raw.token(TENANT, &pairs).await;
    let (token, minute) = (body["access_token"].as_str(), Duration::from_secs(60));
    raw.double.plant("a", "x");
    raw.double.switch(|switches| switches.delay = minute);
    let begin = Instant::now();
    let time = raw.double.pass_time();
    // No pause here, so no time passes.
    let before = tokio::time::Instant::now();
    assert_eq!(raw.vault("DELETE", "/secrets/a?api-version=7.4", token, "").await.0, 200);
    assert_eq!(raw.vault("DELETE", "/deletedsecrets/a?api-version=7.4", token, "").await.0, 409);
    assert!(before.elapsed() < minute);
    tokio::time::sleep(minute).await;
    assert_eq!(raw.vault("DELETE", "/deletedsecrets/a?api-version=7.4", token, "").await.0, 204);
    assert!(begin.elapsed() < minute, "a minute of the clock took {:?}", begin.elapsed());
    drop(time);
}
