//! The page of `kms inventory -o html` in a browser: on a telephone, on a desk and on paper, by keyboard, without colours.

use std::path::PathBuf;

use kms_testkit::servers::{
    Browser, OpenBao, OpenBaoConfig,
    browser::{RIGHT, SIZES, TAB, keep, looks_right},
};
use kms_tests::{Kms, rook::fixture};
use serde_json::{Value, json};

/// The number of OSDs, of nodes, and of OSDs that have no key.
const OSDS: u32 = 42;
const NODES: u32 = 9;
const WITHOUT_KEY: u32 = 2;

/// What `kubectl get` prints: the Deployments, PVCs and pods of OSDs on some nodes. The last rotations are spread over a year.
fn objects() -> String {
    let text = fixture("default", "osd-deployment.json").to_string();
    let mut items = Vec::new();
    for id in 0..OSDS {
        let name = name(id);
        let moved = text
            .replace("set1-data-0a7dwll", &name)
            .replace("rook-ceph-osd-0", &format!("rook-ceph-osd-{id}"))
            .replace("osd/ceph-0", &format!("osd/ceph-{id}"))
            .replace(r#""ceph-osd-id":"0""#, &format!(r#""ceph-osd-id":"{id}""#))
            .replace(r#""ROOK_OSD_ID","value":"0""#, &format!(r#""ROOK_OSD_ID","value":"{id}""#));
        let mut osd: Value = serde_json::from_str(&moved).unwrap();
        let rotated = format!("2026-{:02}-{:02}T03:00:00Z", 1 + id % 11, 1 + id % 28);
        osd["metadata"]["annotations"]["kms.ceph.rook.io/key-rotated-at"] = json!(rotated);
        let labels = json!({"app": "rook-ceph-osd", "ceph-osd-id": id.to_string()});
        let node = format!("storage-{}.rack-{}.example.net", id % NODES, id % 3);
        items.extend([
            osd,
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("osd-{id}"), "labels": labels},
                   "spec": {"nodeName": node, "containers": []}}),
        ]);
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn name(id: u32) -> String {
    format!("set1-data-{id}abcde")
}

#[tokio::test]
#[ignore = "needs OpenBao and Chromium: cargo xtask it rook"]
async fn the_page_is_read_on_a_telephone_on_a_desk_on_paper_and_without_colours() {
    let server = OpenBao::start(OpenBaoConfig::default()).await.unwrap();
    let token = server.admin().rook_token().await.unwrap();
    let kms = Kms::new().on_vault(&server, &token, "rookv2", &[]);
    for id in WITHOUT_KEY..OSDS {
        let _ = kms.run(&["create", &name(id)]).want(0);
    }
    let _ = kms.run(&["create", "set0-data-0gone"]).want(0);
    let kms = kms.document("objects.json", &objects());
    let page: PathBuf = kms.file("inventory.html", &kms.run(&["-o", "html", "inventory"]).want(0).stdout);

    let browser = Browser::start().await.unwrap();
    for (name, size) in SIZES {
        browser.open(&page, size).await.unwrap();
        let found = browser.look().await.unwrap();
        keep(&format!("inventory-{name}.png"), &browser.screenshot().await.unwrap()).unwrap();
        assert_eq!(found, looks_right(OSDS + 1), "{name}");
    }

    // By keyboard: the table is wider than a telephone, gets the focus, and scrolls.
    browser.open(&page, SIZES[0].1).await.unwrap();
    browser.press(TAB).await.unwrap();
    assert_eq!(browser.run("return document.activeElement.className").await.unwrap(), json!("wide"));
    browser.press(RIGHT).await.unwrap();
    let scrolled = "return new Promise((done) => { const look = () => \
        document.activeElement.scrollLeft > 0 ? done(true) : requestAnimationFrame(look); look(); })";
    assert_eq!(browser.run(scrolled).await.unwrap(), json!(true));

    // Without colours the states differ by their signs, which the page shows in the table and in the bars.
    browser.open(&page, SIZES[1].1).await.unwrap();
    browser
        .devtools("Emulation.setEmulatedVisionDeficiency", &json!({"type": "achromatopsia"}))
        .await
        .unwrap();
    keep("inventory-grey.png", &browser.screenshot().await.unwrap()).unwrap();
    let signs = "return [...new Set([...document.querySelectorAll('svg .inside')].map((text) => text.textContent))].sort()";
    assert_eq!(browser.run(signs).await.unwrap(), json!(["✓", "✗"]));

    // On paper nothing is cut off, and the table goes on with its heading.
    let paper = browser.print().await.unwrap();
    keep("inventory.pdf", &paper).unwrap();
    assert!(paper.starts_with(b"%PDF-"));
    browser.devtools("Emulation.setEmulatedMedia", &json!({"media": "print"})).await.unwrap();
    let width = json!({"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": false});
    browser.devtools("Emulation.setDeviceMetricsOverride", &width).await.unwrap();
    let cut = "return [document.documentElement.scrollWidth - document.documentElement.clientWidth, \
        getComputedStyle(document.querySelector('thead')).display, \
        getComputedStyle(document.querySelector('.wide')).overflowX]";
    assert_eq!(browser.run(cut).await.unwrap(), json!([0, "table-header-group", "visible"]));
}
