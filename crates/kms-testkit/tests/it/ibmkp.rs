//! The double of Key Protect alone: its refusals, clocks, switches and faults.

use std::time::Duration;

use kms_testkit::{
    fake::ibmkp::{API_KEY, Action, Destroyed, Host, INSTANCE, IbmKp, Key, Rate, RequestFault},
    servers::{Http, Reply},
};
use serde_json::{Value, json};

const KEY: &str = "application/vnd.ibm.kms.key+json";

async fn token(double: &IbmKp) -> String {
    let http = Http::new(double.iam_url(), double.ca(), None).unwrap();
    let form = format!("grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey={API_KEY}");
    let form = Some(("application/x-www-form-urlencoded", form));
    http.send_as("POST", "/identity/token", form).await.unwrap().text("/access_token").unwrap()
}

async fn client(double: &IbmKp) -> Http {
    let http = Http::new(double.base_url(), double.ca(), None).unwrap();
    let http = http.with_header("authorization", &format!("Bearer {}", token(double).await)).unwrap();
    http.with_header("bluemix-instance", INSTANCE).unwrap()
}

fn import(fields: Value) -> Value {
    let mut key = json!({"name": "pvc-1", "type": KEY, "extractable": true, "payload": "QUJD"});
    key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"metadata": {"collectionType": KEY, "collectionTotal": 1}, "resources": [key]})
}

fn code(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.body["resources"][0]["reasons"][0]["code"].as_str().unwrap_or("none"))
}

#[tokio::test]
async fn bodies_are_checked_field_by_field() {
    let double = IbmKp::start().await.unwrap();
    let http = client(&double).await;
    let long = "x".repeat(91);
    for (body, expected) in [
        (Value::Null, "NO_BODY_ERR"),
        (json!({"resources": []}), "BAD_BODY_ERR"),
        (
            json!({"metadata": {"collectionType": KEY, "collectionTotal": 2}, "resources": [{}]}),
            "COLLECTION_TOTAL_MISMATCH_ERR",
        ),
        (
            json!({"metadata": {"collectionType": KEY, "collectionTotal": 2}, "resources": [{}, {}]}),
            "BAD_BODY_ERR",
        ),
        (
            json!({"metadata": {"collectionType": "other", "collectionTotal": 1}, "resources": [{}]}),
            "BAD_BODY_ERR",
        ),
        (import(json!({"colour": "red"})), "BAD_BODY_ERR"),
        (import(json!({"type": "other"})), "INVALID_FIELD_ERR"),
        (import(json!({"name": "x"})), "INVALID_FIELD_ERR"),
        (import(json!({"name": long})), "INVALID_FIELD_ERR"),
        (import(json!({"description": "x".repeat(241)})), "INVALID_FIELD_ERR"),
        (import(json!({"tags": ["x".repeat(31)]})), "INVALID_FIELD_ERR"),
        (import(json!({"tags": ["a:b"]})), "INVALID_FIELD_ERR"),
        (import(json!({"tags": vec!["ab"; 31]})), "INVALID_FIELD_ERR"),
        (import(json!({"aliases": ["x"]})), "INVALID_FIELD_ERR"),
        (import(json!({"aliases": [long]})), "INVALID_FIELD_ERR"),
        (import(json!({"aliases": ["a.b"]})), "INVALID_FIELD_ERR"),
        (import(json!({"aliases": ["metadata"]})), "INVALID_FIELD_ERR"),
        (import(json!({"aliases": [INSTANCE]})), "INVALID_FIELD_ERR"),
        (import(json!({"aliases": ["a1", "a2", "a3", "a4", "a5", "a6"]})), "INVALID_FIELD_ERR"),
        (import(json!({"payload": "not base64"})), "INVALID_FIELD_ERR"),
        (import(json!({"payload": ""})), "INVALID_FIELD_ERR"),
        (import(json!({"payload": "QUJD".repeat(2000)})), "INVALID_FIELD_ERR"),
        (import(json!({"extractable": "yes"})), "INVALID_FIELD_ERR"),
        // A root key has 16, 24 or 32 bytes.
        (import(json!({"extractable": false})), "INVALID_FIELD_ERR"),
    ] {
        let reply = http.send("POST", "/api/v2/keys", &body).await.unwrap();
        assert_eq!(code(&reply), (400, expected), "{body}");
    }
    assert!(double.keys().is_empty());
    let text = Some(("text/plain", import(json!({})).to_string()));
    assert_eq!(http.send_as("POST", "/api/v2/keys", text).await.unwrap().status, 400);
    let reply = http.send("POST", "/api/v2/keys", &import(json!({"aliases": ["pvc-1"]}))).await.unwrap();
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.body["resources"][0].get("payload").is_none());
    let http = http.with_header("prefer", "return=minimal").unwrap();
    let reply = http.send("POST", "/api/v2/keys", &import(json!({}))).await.unwrap();
    assert_eq!(reply.body["resources"][0].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn no_client_gets_in_without_a_valid_token_and_the_right_instance() {
    let double = IbmKp::start().await.unwrap();
    let (good, path) = (client(&double).await, "/api/v2/keys");
    assert_eq!(good.send("GET", path, &Value::Null).await.unwrap().status, 200);
    for http in [
        good.clone().without_header("authorization"),
        good.clone().without_header("bluemix-instance"),
        good.clone().with_header("bluemix-instance", "44444444-3333-3333-3333-333333333333").unwrap(),
        good.clone().with_header("authorization", "Bearer a.b.c").unwrap(),
    ] {
        let reply = http.send("GET", path, &Value::Null).await.unwrap();
        assert_eq!(code(&reply), (401, "none"));
    }
    let garbage = good.clone().with_header("authorization", "Bearer garbage").unwrap();
    assert_eq!(
        code(&garbage.send("GET", path, &Value::Null).await.unwrap()),
        (400, "BEARER_SUB_EXTRACTION_ERR")
    );
    double.advance(Duration::from_secs(3600));
    assert_eq!(good.send("GET", path, &Value::Null).await.unwrap().status, 401);
    let again = client(&double).await;
    assert_eq!(again.send("GET", path, &Value::Null).await.unwrap().status, 200);
    double.revoke_tokens();
    assert_eq!(again.send("GET", path, &Value::Null).await.unwrap().status, 401);
}

#[tokio::test]
async fn lists_have_pages_states_searches_and_rings() {
    let double = IbmKp::start().await.unwrap();
    let http = client(&double).await;
    for number in 0..5 {
        double.plant(Key::rook(&format!("pvc-{number}"), "QUJD"));
    }
    double.plant(Key { state: 5, deleted: Some(0), aliases: Vec::new(), ..Key::rook("pvc-gone", "QUJD") });
    double.plant(Key { ring: "other".into(), ..Key::rook("elsewhere", "QUJD") });
    let count = async |query: &str| {
        let reply = http.send("GET", &format!("/api/v2/keys?{query}"), &Value::Null).await.unwrap();
        reply.body["resources"].as_array().map(Vec::len).ok_or_else(|| code(&reply).1.to_owned())
    };
    for (query, expected) in [
        ("", 6),
        ("limit=2", 2),
        ("limit=4&offset=4", 2),
        ("offset=9", 0),
        ("state=", 6),
        ("state=5", 1),
        ("state=1,5", 7),
        ("extractable=True", 6),
        ("extractable=false", 0),
        ("search=PVC", 5),
        ("search=exact%3Aalias%3Apvc-3", 1),
        ("search=not%3Apvc", 1),
    ] {
        assert_eq!(count(query).await.unwrap(), expected, "{query}");
    }
    for query in ["limit=0", "limit=5001", "limit=x", "state=4", "colour=red", "filter=x"] {
        let reply = http.send("GET", &format!("/api/v2/keys?{query}"), &Value::Null).await.unwrap();
        assert_eq!(code(&reply), (400, "INVALID_QUERY_PARAM_ERR"), "{query}");
    }
    let head = http.send("HEAD", "/api/v2/keys?state=1,5", &Value::Null).await.unwrap();
    assert_eq!(head.header("key-total"), Some("7"));

    double.switch(|switches| switches.search_limit = 3);
    let reply = http.send("GET", "/api/v2/keys?search=name:pvc", &Value::Null).await.unwrap();
    assert_eq!(code(&reply), (400, "KEY_SEARCH_TOO_BROAD"));
    let reply = http.send("GET", "/api/v2/keys?search=alias:pvc-3", &Value::Null).await.unwrap();
    assert_eq!(reply.body["metadata"]["incompleteSearch"], true);
    assert_eq!(reply.body["resources"].as_array().unwrap().len(), 1);

    let ring = http.clone().with_header("x-kms-key-ring", "other").unwrap();
    assert_eq!(ring.send("GET", "/api/v2/keys/elsewhere", &Value::Null).await.unwrap().status, 200);
    assert_eq!(ring.send("GET", "/api/v2/keys/pvc-1", &Value::Null).await.unwrap().status, 404);
    let reply = ring.send("POST", "/api/v2/keys", &import(json!({}))).await.unwrap();
    assert_eq!(reply.status, 404, "the ring has to be made first");
    assert_eq!(ring.send("POST", "/api/v2/key_rings/other", &Value::Null).await.unwrap().status, 201);
    assert_eq!(ring.send("POST", "/api/v2/keys", &import(json!({}))).await.unwrap().status, 201);
}

#[tokio::test]
async fn destroyed_keys_follow_the_switches_and_the_clock() {
    for (destroyed, stays) in [
        (Destroyed::Gone, false),
        (Destroyed::Gone, true),
        (Destroyed::Shown, false),
        (Destroyed::Shown, true),
    ] {
        let double = IbmKp::start().await.unwrap();
        double.switch(|switches| {
            switches.destroyed = destroyed;
            switches.alias_stays = stays;
            switches.token_seconds = 90 * 24 * 3600;
        });
        let http = client(&double).await;
        let send = async |method: &str, path: &str| {
            http.send(method, &format!("/api/v2/keys/{path}"), &Value::Null).await.unwrap()
        };
        double.plant(Key::rook("pvc-1", "QUJD"));
        let id = double.keys()[0].id.clone();
        assert_eq!(send("DELETE", "pvc-1?force=true").await.status, 404, "not by alias");
        assert_eq!(send("DELETE", &format!("{id}?force=true")).await.status, 204);
        assert_eq!(code(&send("DELETE", &id).await), (410, "KEY_DELETED_ERR"));
        let by_id = send("GET", &id).await;
        match destroyed {
            Destroyed::Gone => assert_eq!(code(&by_id), (410, "KEY_DELETED_ERR")),
            _ => {
                assert_eq!((by_id.status, &by_id.body["resources"][0]["state"]), (200, &json!(5)));
                assert!(by_id.body["resources"][0].get("payload").is_none());
            }
        }
        assert_eq!(send("GET", "pvc-1").await.status == 404, !stays);
        assert_eq!(code(&send("POST", &format!("{id}/aliases/other")).await), (410, "KEY_DELETED_ERR"));
        let created =
            http.send("POST", "/api/v2/keys", &import(json!({"aliases": ["pvc-1"]}))).await.unwrap();
        assert_eq!(created.status, if stays { 409 } else { 201 });

        assert_eq!(send("POST", &format!("{id}/restore")).await.status, 201);
        assert_eq!(send("GET", &id).await.body["resources"][0]["payload"], "QUJD");
        send("DELETE", &id).await;
        assert_eq!(code(&send("DELETE", &format!("{id}/purge")).await), (409, "REQ_TOO_EARLY_ERR"));
        double.advance(Duration::from_secs(4 * 3600 - 1));
        assert_eq!(code(&send("DELETE", &format!("{id}/purge")).await), (409, "REQ_TOO_EARLY_ERR"));
        double.advance(Duration::from_secs(31 * 24 * 3600));
        assert_eq!(send("POST", &format!("{id}/restore")).await.status, 409, "30 days are over");
        assert_eq!(send("DELETE", &format!("{id}/purge")).await.status, 204);
        assert_eq!(send("GET", &id).await.status, 404);
    }
}

#[tokio::test]
async fn faults_strike_the_requests_that_they_are_for() {
    let double = IbmKp::start().await.unwrap();
    let http = client(&double).await;
    let create = async || http.send("POST", "/api/v2/keys", &import(json!({}))).await;
    double.fault(RequestFault::new(Host::Keys, Action::LoseRequest).of("POST"));
    assert!(create().await.is_err());
    assert_eq!(double.keys().len(), 0);
    double.fault(RequestFault::new(Host::Keys, Action::LoseAnswer).of("POST").after(1));
    assert_eq!(create().await.unwrap().status, 201);
    assert!(create().await.is_err());
    assert_eq!(double.keys().len(), 2);
    double.fault(RequestFault::new(Host::Keys, Action::DoneBut(502)).of("POST"));
    let reply = create().await.unwrap();
    assert_eq!((reply.status, double.keys().len()), (502, 3));
    assert!(reply.body.is_string());
    double.fault(RequestFault::new(Host::Keys, Action::EMPTY_RESOURCES));
    assert_eq!(create().await.unwrap().body["resources"], json!([]));
    double.fault(RequestFault::new(Host::Keys, Action::NO_RESOURCES).times(usize::MAX));
    assert!(create().await.unwrap().body.get("resources").is_none());
    double.heal();

    double.forget();
    double.switch(|switches| switches.rate = Some(Rate { per_second: 0, retry_after: Some("3") }));
    let reply = create().await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("3")));
    assert_eq!(double.lines(), ["POST /api/v2/keys"]);
    assert_eq!((double.counts().keys.requests, double.counts().tokens.requests), (1, 0));
}
