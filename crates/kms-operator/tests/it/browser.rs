//! The status page in a browser: on a telephone, on a desk and on paper, in the dark, by keyboard, without colours.

use std::sync::Arc;

use async_trait::async_trait;
use kms_core::{ExposeSecret as _, Result, SecretString};
use kms_operator::serve::{Access, Reviewer, Verdict};
use kms_testkit::servers::{
    Browser,
    browser::{RIGHT, SIZES, TAB, keep, looks_right},
};
use serde_json::json;

use crate::{
    fixed::{Fixed, OSDS},
    served::Served,
};

/// Knows one token.
#[derive(Debug)]
struct OneToken;

#[async_trait]
impl Reviewer for OneToken {
    async fn review(&self, token: &SecretString, _: &str) -> Result<Verdict> {
        Ok(if token.expose_secret() == "sesame" { Verdict::Allowed } else { Verdict::Unknown })
    }
}

#[tokio::test]
#[ignore = "needs Chromium: cargo xtask it operator"]
async fn the_status_page_is_read_on_a_telephone_on_a_desk_on_paper_in_the_dark_and_without_colours() {
    let served = Served::start(Arc::new(Fixed::new()), Access::Reviewed(Arc::new(OneToken))).await;
    // As if a person had typed the token into the dialogue of the browser.
    let page = format!("http://anyone:sesame@{}/", served.at);
    let right = looks_right(OSDS + 1);
    let browser = Browser::start().await.unwrap();
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", &features).await.unwrap();
        for (name, size) in SIZES {
            browser.visit(&page, size).await.unwrap();
            let found = browser.look().await.unwrap();
            let picture = browser.screenshot().await.unwrap();
            keep(&format!("operator-{name}-{scheme}.png"), &picture).unwrap();
            assert_eq!(found, right, "{name} {scheme}");
        }
        let paper = browser.run("return getComputedStyle(document.body).backgroundColor").await.unwrap();
        assert_eq!(paper == json!("rgb(255, 255, 255)"), scheme == "light", "{paper}");
    }
    browser.devtools("Emulation.setEmulatedMedia", &json!({"features": []})).await.unwrap();

    // By keyboard: each table that is wider than a telephone gets the focus, and scrolls.
    browser.visit(&page, SIZES[0].1).await.unwrap();
    for heading in ["clusters", "keys"] {
        browser.press(TAB).await.unwrap();
        let focused = "return document.activeElement.getAttribute('aria-labelledby')";
        assert_eq!(browser.run(focused).await.unwrap(), json!(heading));
        browser.press(RIGHT).await.unwrap();
        let scrolled = "return new Promise((done) => { const look = () => \
            document.activeElement.scrollLeft > 0 ? done(true) : requestAnimationFrame(look); look(); })";
        assert_eq!(browser.run(scrolled).await.unwrap(), json!(true));
    }

    // Without colours the states differ by their signs.
    browser.visit(&page, SIZES[1].1).await.unwrap();
    browser
        .devtools("Emulation.setEmulatedVisionDeficiency", &json!({"type": "achromatopsia"}))
        .await
        .unwrap();
    keep("operator-grey.png", &browser.screenshot().await.unwrap()).unwrap();
    let signs = "return [...new Set([...document.querySelectorAll('tbody .state')].map((one) => one.textContent[0]))].sort()";
    assert_eq!(browser.run(signs).await.unwrap(), json!(["?", "»", "✓", "✗"]));

    // On paper nothing is cut off, also if the screen is dark.
    let paper = browser.print().await.unwrap();
    keep("operator.pdf", &paper).unwrap();
    assert!(paper.starts_with(b"%PDF-"));
    let dark = json!({"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.devtools("Emulation.setEmulatedMedia", &dark).await.unwrap();
    let width = json!({"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": false});
    browser.devtools("Emulation.setDeviceMetricsOverride", &width).await.unwrap();
    let cut = "return [document.documentElement.scrollWidth - document.documentElement.clientWidth, \
        getComputedStyle(document.querySelector('.wide')).overflowX, \
        getComputedStyle(document.body).backgroundColor]";
    assert_eq!(browser.run(cut).await.unwrap(), json!([0, "visible", "rgb(255, 255, 255)"]));
}
