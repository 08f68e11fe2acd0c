//! Shaders against what Rust says about them: files, bindings, parameters, variants.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use serde_json::{Value, json};

use super::StepParams;
use super::shader::{Access, Constants, FILES, Layout, Shader, variants};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn stems(folder: &str, extension: &str) -> BTreeSet<String> {
    std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// Entry points, each once.
fn shaders() -> Vec<&'static Shader> {
    let mut all: Vec<&'static Shader> = Vec::new();
    for (shader, _) in variants() {
        if !all.contains(&shader) {
            all.push(shader);
        }
    }
    all
}

fn parse(shader: &Shader) -> (naga::Module, naga::valid::ModuleInfo) {
    let source = shader.source();
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|e| panic!("{}: {}", shader.name(), e.emit_to_string(&source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(ShaderStages::all())
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", shader.name(), e.emit_to_string(&source)));
    (module, info)
}

/// Fails when an executor asks for a variant that no browser test compiles.
pub(super) fn assert_listed(shader: &'static Shader, constants: &Constants) {
    let ignoring_head_width =
        |constants: &Constants| constants.iter().filter(|(name, _)| *name != "D").copied().collect::<Vec<_>>();
    let wanted = ignoring_head_width(constants);
    let is_listed = variants().iter().any(|(s, c)| *s == shader && ignoring_head_width(c) == wanted);
    assert!(is_listed, "{} with {constants:?} is missing from its kernel's variants()", shader.name());
}

#[test]
fn every_kernel_has_a_shader_of_its_name() {
    let mut kernels = stems("engine/core/src/kernels", "rs");
    assert!(kernels.remove("mod"));
    assert_eq!(kernels, stems("shaders", "wgsl"));
    let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let on_disk = stems("shaders", "wgsl").into_iter().map(|s| format!("{s}.wgsl"));
    let shared = stems("shaders/lib", "wgsl").into_iter().map(|s| format!("lib/{s}.wgsl"));
    assert_eq!(listed, on_disk.chain(shared).collect());
    let used: BTreeSet<&str> = shaders().iter().flat_map(|s| s.files).copied().collect();
    assert_eq!(used.len(), FILES.len(), "a shader file is in no module");
}

/// Chromium's compiler fills a variable without a value once, where the language says each time around its loop.
#[test]
fn every_variable_of_a_function_has_a_value_from_the_start() {
    for (name, text) in super::shader::FILES {
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("var ")) {
            assert!(line.contains('='), "{name}: give it a value: {line}");
        }
    }
}

#[test]
fn every_shader_is_valid_and_binds_what_its_kernel_says() {
    for shader in shaders() {
        let (module, info) = parse(shader);
        let index = module.entry_points.iter().position(|e| e.name == shader.entry);
        let index = index.unwrap_or_else(|| panic!("{} does not exist", shader.name()));
        let used = info.get_entry_point(index);
        let mut storage = Vec::new();
        for (handle, global) in module.global_variables.iter() {
            let Some(binding) = &global.binding else { continue };
            if used[handle].is_empty() {
                continue;
            }
            assert_eq!(binding.group, 0);
            match global.space {
                naga::AddressSpace::Uniform => {
                    let layout = match binding.binding {
                        0 => &shader.params,
                        1 => &StepParams::LAYOUT,
                        other => panic!("{}: uniform at {other}", shader.name()),
                    };
                    assert_layout(shader, &module, global.ty, layout);
                }
                naga::AddressSpace::Storage { access } => {
                    let is_written = access.contains(naga::StorageAccess::STORE);
                    storage.push((binding.binding, if is_written { Access::Write } else { Access::Read }));
                }
                space => panic!("{}: {space:?}", shader.name()),
            }
        }
        storage.sort_by_key(|(binding, _)| *binding);
        assert_eq!(storage, shader.bindings, "{}", shader.name());
        // The defaults of every WebGPU device.
        assert!(storage.len() <= 8, "{}", shader.name());
    }
}

fn assert_layout(shader: &Shader, module: &naga::Module, ty: naga::Handle<naga::Type>, layout: &Layout) {
    let naga::TypeInner::Struct { members, .. } = &module.types[ty].inner else {
        panic!("{}: its uniform is no struct", shader.name())
    };
    let members: Vec<(&str, usize)> =
        members.iter().map(|m| (m.name.as_deref().unwrap_or_default(), m.offset as usize)).collect();
    let fields: Vec<(&str, usize)> = layout.fields.iter().filter(|(name, _)| *name != "unused").copied().collect();
    assert_eq!(members, fields, "{}", shader.name());
}

#[test]
fn the_list_for_browsers_is_up_to_date() {
    let mut list: Vec<Value> = Vec::new();
    for shader in shaders() {
        let combinations: Vec<Value> = variants()
            .into_iter()
            .filter(|(s, _)| *s == shader)
            .map(|(_, constants)| constants.into_iter().collect::<std::collections::BTreeMap<_, _>>())
            .map(|constants| json!(constants))
            .collect();
        let bindings: Vec<Value> = shader
            .bindings
            .iter()
            .map(|(binding, access)| match access {
                Access::Read => json!([binding, "read-only-storage"]),
                Access::Write => json!([binding, "storage"]),
            })
            .collect();
        list.push(json!({
            "name": shader.name(),
            "files": shader.files,
            "entry": shader.entry,
            "bindings": bindings,
            "variants": combinations,
        }));
    }
    let text = format!("{:#}\n", Value::Array(list));
    let path = root().join("tests/shaders/variants.json");
    if std::env::var("SOTTO_UPDATE").is_ok_and(|v| v == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "tests/shaders/variants.json is old: run this test with SOTTO_UPDATE=1");
}
