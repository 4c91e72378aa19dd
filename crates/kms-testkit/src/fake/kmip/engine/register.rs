//! Register, and the attributes of requests.

use super::{ATTRIBUTES, DESTROYED, Engine, Object, Refused};
use crate::fake::kmip::codec::Node;

impl Engine {
    pub(super) fn register(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        if let Some(reason) = self.quirks.register_fails {
            return Err((reason, "The operation failed."));
        }
        let kind = payload.number(0x42_0057).ok_or((0x06, "no object type"))?;
        let (mut names, mut application, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for (tag, value) in given(payload, version)? {
            match tag {
                0x42_0053 => names.push(value.words(0x42_0055).unwrap_or_default().to_owned()),
                0x42_0004 if self.quirks.no_application => {
                    return Err((0x0f, "no such application namespace"));
                }
                0x42_0004 => application.push((
                    value.words(0x42_0003).unwrap_or_default().to_owned(),
                    value.words(0x42_0002).unwrap_or_default().to_owned(),
                )),
                0x42_0056 if self.quirks.no_group => return Err((0x07, "there are no object groups")),
                0x42_0056 => groups.push(value.text().unwrap_or_default().to_owned()),
                _ => {}
            }
        }
        if (names.len() > 1 && self.quirks.one_name) || (!names.is_empty() && self.quirks.no_names) {
            return Err((0x07, "too many names"));
        }
        if application.len() > 1 && self.quirks.one_application {
            return Err((0x07, "too much application specific information"));
        }
        self.quirks.names.apply(&mut names);
        self.quirks.applications.apply(&mut application);
        self.quirks.groups.apply(&mut groups);
        let taken =
            |name: &String| self.objects.iter().any(|o| o.state != DESTROYED && o.names.contains(name));
        if self.quirks.unique_names && names.iter().any(taken) {
            return Err((0x35, "the name is taken"));
        }
        let object =
            payload.find(0x42_008f).or_else(|| payload.find(0x42_0085)).ok_or((0x06, "no object"))?;
        let block = object.find(0x42_0040).ok_or((0x06, "no key block"))?;
        let format = block.number(0x42_0042).ok_or((0x06, "no format"))?;
        let bits = block.number(0x42_002a);
        let Some(Node::Bytes(_, material)) = block.find(0x42_0045).and_then(|value| value.find(0x42_0043))
        else {
            return Err((0x06, "no key material"));
        };
        if kind == 2 {
            let rooks = format == 2 && bits == Some(256);
            let sound = format == 1 && bits == i64::try_from(material.len() * 8).ok();
            if if self.quirks.only_rooks { !rooks } else { !sound } {
                return Err((0x100, "Operation failed."));
            }
            if self.quirks.longest_key.is_some_and(|longest| material.len() * 8 > longest) {
                return Err((0x3e, "the key is too long"));
            }
        } else if self.quirks.only_rooks {
            return Err((0x07, "The SecretData object type is not supported."));
        }
        let uid = self.add(Object {
            kind: u32::try_from(kind).unwrap_or_default(),
            format: u32::try_from(format).unwrap_or_default(),
            bits: bits.and_then(|bits| i32::try_from(bits).ok()).unwrap_or_default(),
            material: material.clone(),
            names,
            application,
            groups,
            ..Object::default()
        });
        Ok(vec![Node::Text(0x42_0094, uid)])
    }
}

/// The attributes of a request by their tags.
pub(super) fn given(payload: &Node, version: (i32, i32)) -> Result<Vec<(u32, Node)>, Refused> {
    if version.0 >= 2 {
        if payload.find(0x42_0091).is_some() || payload.find(0x42_0008).is_some() {
            return Err((0x04, "there are no template attributes in KMIP 2.0"));
        }
        let attributes = payload.find(0x42_0125).map(Node::nodes).unwrap_or_default();
        return Ok(attributes.iter().map(|node| (node.tag(), node.clone())).collect());
    }
    if payload.find(0x42_0125).is_some() {
        return Err((0x04, "there is no structure of attributes before KMIP 2.0"));
    }
    let holder = payload.find(0x42_0091).unwrap_or(payload);
    let mut found: Vec<(u32, Node)> = Vec::new();
    for attribute in holder.nodes().iter().filter(|node| node.tag() == 0x42_0008) {
        let name = attribute.words(0x42_000a).unwrap_or_default();
        let Some((tag, _)) = ATTRIBUTES.iter().find(|(_, known)| *known == name) else { continue };
        let before = found.iter().filter(|(known, _)| known == tag).count();
        let value = attribute.find(0x42_000b).cloned().ok_or((0x06, "no value"))?;
        // Two dates are the range of a Locate (KMIP 1.4 §4.9), and not two values of an object.
        let is_date = matches!(value, Node::Time(..));
        if before > 0 && !is_date && attribute.number(0x42_0009) != i64::try_from(before).ok() {
            return Err((0x07, "Attribute index missing from multivalued attribute."));
        }
        found.push((*tag, value));
    }
    Ok(found)
}
