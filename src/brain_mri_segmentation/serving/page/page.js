"use strict";
const { NVImage, Niivue, gunzipSync, unzipSync, zipSync } = window.viewer;
const $ = id => document.getElementById(id);
const slices = [];  // of all heads, each with its head and its place in it
let current = 0, queue = 0, finished = 0, key = "";

fetch("ready").then(async answer => {
  const card = await answer.json();
  const dice = { "validation Dice": card.val_dice, "Dice out of fold": card.out_of_fold_dice };
  const scores = Object.entries(dice).filter(([, value]) => value != null).map(([name, value]) => `, ${name} ${value.toFixed(3)}`);
  $("model").textContent = answer.ok ? `Model ${card.model_name}, version ${card.model_version}${scores.join("")}` : card.detail;
}).catch(() => { $("model").textContent = "The server cannot be reached."; });

function refuse(name, text) {
  const item = document.createElement("li");
  item.textContent = `${name}: ${text}`;
  $("errors").append(item);
}

// ---------------------------------------------------------------------------- from files to heads

const natural = new Intl.Collator("en", { numeric: true });
const folderOf = path => path.replace(/[^/]*$/, "");

async function kindOf({ file, path }) {  // DICOM by its bytes, which also tell the study, else by its folder; all else by its name
  if (/\.zip$/i.test(file.name)) return "zip";
  if (/\.(tiff?|png|jpe?g)$/i.test(file.name)) return "picture";
  if (/\.(nii(\.gz)?|nrrd|mha)$/i.test(file.name)) return "grid";
  const head = new TextDecoder("latin1").decode(await file.slice(0, 16384).arrayBuffer());
  return head.slice(128, 132) === "DICM" ? `study ${head.match(/ \0\r\0(?:UI[^]{2}|[^]{4})([0-9.]+)/)?.[1] ?? folderOf(path)}` : null;
}

async function add(items) {  // files with their paths
  const visible = items.filter(({ file }) => file.name[0] !== "." && !/(^|[^a-z0-9])(mask|d?seg(mentation)?|labels?)\.[a-z.]+$/i.test(file.name));
  queue += visible.length; progress();
  for (const item of visible) item.kind = await kindOf(item);
  const others = visible.filter(item => !item.kind).map(({ file }) => file.name);
  const wanted = visible.filter(item => item.kind);
  if (others.length) refuse(others.length > 1 ? `${others[0]} and ${others.length - 1} more` : others[0], "left out; no picture, NIfTI, NRRD, MetaImage or DICOM.");
  if (!wanted.length) refuse("Nothing to do", "nothing among the files can be segmented (masks are left out).");
  queue -= others.length; progress();
  const heads = group(wanted);
  let next = 0;
  const worker = async () => {
    while (next < heads.length) {
      const files = heads[next++];
      try { await segment(files); } catch (error) { refuse(files[0].file.name, `its result cannot be shown: ${error.message}`); }
      finished += files.length; progress();
    }
  };
  await Promise.all([worker(), worker()]);
  if (finished === queue) { queue = finished = 0; $("progress").hidden = true; }
}

function group(items) {
  const heads = new Map();
  const hasFlair = new Set(items.filter(({ file }) => /flair|t2f/i.test(file.name)).map(({ path }) => folderOf(path)));
  for (const item of items.sort((a, b) => natural.compare(a.path, b.path))) {
    const { kind, path } = item;
    const head = kind === "picture" ? path.match(/^(.+)_[0-9]+\.[a-z]+$/i)?.[1]  // <volume>_<number>
      : kind === "grid" ? hasFlair.has(folderOf(path)) && path.replace(/^(.*?)[-_. +]*(flair|t2f|t1|t2)[^/]*$/i, "sequences $1")
      : kind === "zip" ? null : kind;
    heads.set(head || path, [...heads.get(head || path) ?? [], item]);
  }
  return [...heads.values()];
}

function progress() {
  $("progress").hidden = false; $("bar").max = queue;
  if (finished) $("bar").value = finished; else $("bar").removeAttribute("value");  // at work, without an end in sight
  $("count").textContent = `${finished} of ${queue} files`;
}

async function segment(files, tries = 5) {
  const form = new FormData(), name = files[0].file.name, sent = key;
  if (files.length > 1 && files[0].kind !== "picture") {  // in a zip, names count and files may be many
    const contents = await Promise.all(files.map(async ({ file, path }) => [path.replace(/^\/+/, ""), new Uint8Array(await file.arrayBuffer())]));
    form.append("files", new Blob([zipSync(Object.fromEntries(contents), { level: 0 })]), "head.zip");
  } else for (const { file } of files) form.append("files", file);
  let answer;
  try { answer = await fetch("segment/volume", { method: "POST", body: form, headers: { Accept: "application/zip", ...key && { "X-API-Key": key } } }); }
  catch { refuse(name, "the server cannot be reached."); return; }
  if (answer.status === 401 && tries) {
    if (key === sent) key = prompt("The API key of this service") ?? "";  // a head beside it may have asked by now
    if (key) return segment(files, tries - 1);
  }
  if (answer.status === 429 && tries) {
    await new Promise(go => setTimeout(go, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
    return segment(files, tries - 1);
  }
  if (!answer.ok) {
    const { detail } = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}.` }));
    if (files[0].kind === "picture" && files.length > 1 && /^File [0-9]+ of/.test(detail)) {  // one bad slice must not hide the others
      refuse(`${name} and ${files.length - 1} more`, `segmented one by one, without the context of the volume. ${detail}`);
      for (const item of files) await segment([item]);
    } else refuse(name, detail);
    return;
  }
  take(files, unzipSync(new Uint8Array(await answer.arrayBuffer())));
}

function take(files, parts) {
  const result = JSON.parse(new TextDecoder().decode(parts["result.json"]));
  const { file, path, kind } = files[0], count = result.slices.length, each = kind === "picture" && count === files.length;
  const bare = file.name.replace(/(\.nii)?\.[^.]*$/, "");
  const head = { result, parts, path, name: each && count > 1 ? bare.replace(/_[0-9]+$/, "") : bare };
  const chosen = slices[current];
  result.slices.forEach((found, at) => slices.push({
    ...found, head, at, order: `${path} ${at}`, path: each ? files[at].path : path,
    name: each ? files[at].file.name : count > 1 ? `${bare}_${at + 1}` : file.name,
  }));
  slices.sort((a, b) => natural.compare(a.order, b.order));
  const ours = slices.filter(slice => slice.head === head);
  const largest = ours.reduce((a, b) => b.tumour_pixels > a.tumour_pixels ? b : a);
  show(slices.indexOf(chosen ?? (count > 1 ? largest : ours[0])));
}

// ------------------------------------------------------------------------------------ the viewer

const ORANGE = { R: [0, 230], G: [0, 159], B: [0, 0], A: [0, 255], I: [0, 1], labels: ["", "tumour"] };
let seen = null, loading = null;  // the head that is drawn, and the one that will be

const attached = (async () => {
  if (!document.createElement("canvas").getContext("webgl2")) {
    $("view").hidden = true;
    $("stage").append("This browser has no WebGL 2, without which nothing can be drawn; results can be downloaded.");
    return null;
  }
  const nv = new Niivue({
    backColor: [0, 0, 0, 1], crosshairColor: [0.42, 0.72, 0.94, 0.7], dragAndDropEnabled: false, dragMode: 0, isRadiologicalConvention: true,
    doubleTouchTimeout: 0, longTouchTimeout: 2e9,  // they would reset the contrast
    logLevel: "error", multiplanarShowRender: 0, crosshairGap: 10, crosshairWidth: 0.6, isCornerOrientationText: true, sagittalNoseLeft: true, loadingText: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "",
  });
  await nv.attachToCanvas($("view"));
  nv.onLocationChange = ({ vox }) => {  // by wheel, click or key in the picture
    const slice = slices[current];
    if (seen && slice?.head === seen && vox[2] !== slice.at) show(current - slice.at + vox[2]);
  };
  return nv;
})();

function nifti(head, part) {  // the voxels; of pictures as high as a head, since they do not say how far apart they are
  const unplaced = `${part}_in_voxels.nii.gz` in head.parts;
  const bytes = gunzipSync(head.parts[unplaced ? `${part}_in_voxels.nii.gz` : `${part}.nii.gz`]);
  if (unplaced) {
    const header = new DataView(bytes.buffer, bytes.byteOffset), little = true;
    const height = Math.max(1, 0.7 * header.getInt16(42, little) / header.getInt16(46, little));
    header.setFloat32(88, height, little);  // pixdim[3]
    header.setFloat32(320, height, little);  // srow_z[2]
  }
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  return part === "probability" ? NVImage.new(buffer, `${part}.nii`, "inferno", 0, null, 0.1, 1) : NVImage.new(buffer, `${part}.nii`, "gray", 1);
}

async function draw() {
  const nv = await attached, { head } = slices[current];
  if (!nv || loading === head) return;
  if (seen !== head) {
    loading = head; seen = null;
    const images = await Promise.all(["image", "probability", "mask"].map(part => nifti(head, part)));
    if (loading !== head) return;  // another one has been chosen meanwhile
    nv.closeDrawing();
    while (nv.volumes.length) nv.removeVolume(nv.volumes.at(-1));
    images[0].colorbarVisible = false;
    nv.addVolume(images[0]); nv.addVolume(images[1]);
    nv.loadDrawing(images[2]);
    nv.setDrawColormap(ORANGE);
    head.contrast ??= [images[0].cal_min, images[0].cal_max];
    seen = head; loading = null;
    setContrast(...head.contrast);
    lay();
    arrange();
    centre(nv, slices[current]);
  } else if (nv.frac2vox(nv.scene.crosshairPos)[2] !== slices[current].at) {
    nv.moveCrosshairInVox(0, 0, slices[current].at - nv.frac2vox(nv.scene.crosshairPos)[2]);
  }
}

function centre(nv, slice) {  // the cross into the tumour of a slice, from its runs; else into the middle
  let at = 0, count = 0, x = 0, y = 0;
  slice.mask.runs.forEach((run, n) => {
    if (n % 2) for (let i = at; i < at + run; i++) { count++; x += i % slice.width; y += Math.floor(i / slice.width); }
    at += run;
  });
  const { width, height } = slice, [column, row] = count ? [x / count, y / count] : [width / 2, height / 2];
  nv.scene.crosshairPos = nv.vox2frac([width - 1 - Math.round(column), height - 1 - Math.round(row), slice.at]);
  nv.drawScene();
}

async function arrange() {  // a large axial plane, and beside or below it the others
  const nv = await attached, { clientWidth, clientHeight } = $("stage"), wide = clientWidth > clientHeight;
  if (!seen) return;
  const type = seen.result.slices.length > 1 ? Number($("planes").value) : 0;
  const places = wide ? [[0, 0, .62, 1], [.62, 0, .38, .5], [.62, .5, .38, .5]] : [[0, 0, 1, .62], [0, .62, .5, .38], [.5, .62, .5, .38]];
  if (type === 3) nv.setCustomLayout(places.map((position, sliceType) => ({ sliceType, position })));
  else nv.clearCustomLayout();
  nv.setSliceType(type);
}
new ResizeObserver(arrange).observe($("stage"));

async function lay() {  // what is laid over FLAIR
  const nv = await attached, layer = document.querySelector("[name=layer]:checked").value, opacity = $("opacity").value / 100;
  if (!seen) return;
  nv.drawRimOpacity = layer === "contour" ? Math.min(1, 2 * opacity) : -1;
  nv.opts.isColorbar = layer === "probability";
  nv.drawOpacity = layer === "fill" ? opacity : layer === "contour" && opacity ? 0.004 : 0;
  nv.setOpacity(1, layer === "probability" ? opacity : 0);
}

// Window and level, in percent of what the voxels span.
const span = nv => [nv.volumes[0].global_min, Math.max(nv.volumes[0].global_max - nv.volumes[0].global_min, 1e-9)];

async function setContrast(low, high) {
  const nv = await attached, [least, range] = span(nv);
  $("level").value = 100 * ((low + high) / 2 - least) / range;
  $("window").value = 100 * (high - low) / range;
  [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = [low, high];
  nv.updateGLVolume();
}

async function slide(level = Number($("level").value), width = Number($("window").value)) {
  const nv = await attached;
  if (!seen) return;
  const [least, range] = span(nv);
  level = Math.max(0, Math.min(100, level)); width = Math.max(0.5, Math.min(100, width));
  setContrast(least + range * (level - width / 2) / 100, least + range * (level + width / 2) / 100);
}

let held = null;  // where a drag that changes the contrast began
$("view").addEventListener("pointerdown", event => {
  if (event.button === 2 || $("drag").checked) held = [event.clientX, event.clientY, Number($("level").value), Number($("window").value)];
});
addEventListener("pointermove", event => {
  if (held) slide(held[2] - (event.clientY - held[1]) / 4, held[3] + (event.clientX - held[0]) / 4);
});
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { held = null; });
$("view").addEventListener("contextmenu", event => event.preventDefault());

// ------------------------------------------------------------------------------- what was found

function show(index) {
  current = Math.max(0, Math.min(index, slices.length - 1));
  $("result").hidden = !slices.length;
  for (const id of ["clear", "saveall"]) $(id).disabled = !slices.length;
  if (!slices.length) return;
  const slice = slices[current], { head } = slice, { result } = head, count = result.slices.length;
  $("planes").disabled = count < 2;
  $("name").textContent = slice.name;
  $("figures").textContent = `tumour ${(100 * slice.tumour_fraction).toFixed(2)} % of the slice (${slice.tumour_pixels} pixels)`
    + (slice.expected_dice == null ? "" : `, expected Dice ${slice.expected_dice.toFixed(2)}`) + "; "
    + (count > 1 ? `one of ${count} slices of a volume.` : "a slice by itself.");
  $("review").textContent = slice.review ? `Review: ${slice.review}.` : "";
  $("whole").textContent = result.review && count > 1 ? `Review all slices: ${result.review}.` : "";
  $("volume").textContent = count > 1
    ? `${head.name}: ${amount(result)} in ${result.slices_with_tumour} of ${count} slices, ${result.slices_to_review} to review`
      + (result.expected_dice == null ? "." : `; expected Dice ${result.expected_dice.toFixed(2)}.`) : "";
  $("notes").textContent = result.notes.join("; ");
  $("slice").max = slices.length - 1; $("slice").value = current;
  $("number").textContent = `${current + 1} of ${slices.length}`;
  plot(); review(); parts(head);
  draw();
}

function amount({ tumour_ml, tumour_ml_low, tumour_ml_high, tumour_pixels }) {
  if (tumour_ml == null) return `tumour of ${tumour_pixels} pixels (pictures do not say how large a pixel is)`;
  return `tumour of ${tumour_ml.toFixed(2)} ml` + (tumour_ml_low == null ? "" : ` (90 % interval: ${tumour_ml_low.toFixed(2)} to ${tumour_ml_high.toFixed(2)} ml)`);
}

function plot() {
  const canvas = $("plot"), context = canvas.getContext("2d"), { width, height } = canvas;
  const most = Math.max(...slices.map(s => s.tumour_fraction), 1e-6), step = width / slices.length;
  const ink = getComputedStyle(document.body).color;
  context.clearRect(0, 0, width, height);
  slices.forEach((s, i) => {
    context.fillStyle = s.review ? "#0072b2" : "#e69f00";
    const bar = Math.max(2, (height - 6) * s.tumour_fraction / most);
    context.fillRect(i * step + step * .1, height - bar, Math.max(1, step * .8), bar);
    if (i === current) { context.strokeStyle = ink; context.lineWidth = 2; context.strokeRect(i * step + 1, 1, Math.max(step - 2, 1), height - 2); }
  });
}

function review() {  // neighbours for the same reason are one line, which leads to the first of them
  const lines = [];
  slices.forEach((slice, i) => {
    const last = lines.at(-1), reason = slice.review?.replace(/: it expects a Dice of .*/, "");
    if (!reason) return;
    if (last?.reason === reason && last.to === i - 1 && slices[i - 1].head === slice.head) last.to = i;
    else lines.push({ from: i, to: i, reason });
  });
  $("reviewing").hidden = !lines.length;
  $("reviews").replaceChildren(...lines.map(({ from, to, reason }) => {
    const item = document.createElement("li"), link = document.createElement("button");
    link.textContent = `${slices[from].name}${to > from ? ` to ${slices[to].name}` : ""}: ${reason}`;
    link.onclick = () => show(from);
    item.append(link);
    return item;
  }));
}

// ------------------------------------------------------------------------------------ downloads

const NAMES = { "mask.nii.gz": "NIfTI mask", "probability.nii.gz": "NIfTI probability", "masks.tif": "TIFF masks", "mask.dcm": "DICOM SEG",
                "result.json": "JSON", "report.html": "Report" };

function parts(head) {
  if ($("parts").head === head) return;
  $("parts").head = head;
  const button = (text, save) => Object.assign(document.createElement("button"), { textContent: text, onclick: save });
  const found = Object.keys(head.parts).filter(part => part.replace("_in_voxels", "") in NAMES);
  $("parts").replaceChildren(
    ...found.map(part => button(NAMES[part.replace("_in_voxels", "")] + (part.includes("_in_voxels") ? " (in voxels)" : ""),
      () => download(`${head.name}_${part}`, head.parts[part]))),
    button("PNG mask of this slice", savePng),
  );
  $("parts").lastChild.id = "save";
}

function download(name, ...contents) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(contents, { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function savePng() {
  const { mask, name, width, height } = slices[current], canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  let at = 0;
  mask.runs.forEach((run, n) => { for (const end = at + run; at < end; at++) pixels.data.set(n % 2 ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * at); });
  context.putImageData(pixels, 0, 0);
  download(`${name.replace(/\.[^.]*$/, "")}_mask.png`, await canvas.convertToBlob());
}

function saveAll() {
  const heads = new Set(slices.map(slice => slice.head)), files = {};
  for (const head of heads) {
    let name = head.name;
    for (let n = 2; name in files; n++) name = `${head.name}-${n}`;
    files[name] = head.parts;
  }
  download("segmentations.zip", zipSync(files, { level: 0 }));
}

// ------------------------------------------------------------------------------------- controls

async function filesOf(entry) {  // everything below a dropped folder
  if (entry.isFile) return [{ path: entry.fullPath, file: await new Promise((done, failed) => entry.file(done, failed)) }];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const part = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!part.length) return found;
    for (const child of part) found.push(...await filesOf(child));
  }
}

for (const id of ["files", "folder"]) {
  $(id).onchange = event => { add([...event.target.files].map(file => ({ file, path: file.webkitRelativePath || file.name }))); };
}
$("drop").ondragover = event => { event.preventDefault(); $("drop").classList.add("over"); };
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = async event => {
  event.preventDefault(); $("drop").classList.remove("over");
  const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry()).filter(Boolean);
  add((await Promise.all(entries.map(filesOf))).flat());
};
$("slice").oninput = event => show(Number(event.target.value));
$("opacity").oninput = lay;
for (const choice of document.querySelectorAll("[name=layer]")) choice.onchange = lay;
$("level").oninput = $("window").oninput = () => slide();
$("reset").onclick = () => { if (seen) setContrast(...seen.contrast); };
$("planes").onchange = arrange;
$("drag").onchange = async event => { const nv = await attached; if (nv) nv.opts.dragModePrimary = event.target.checked ? 0 : 8; };
$("plot").onclick = event => show(Math.floor(event.offsetX / $("plot").clientWidth * slices.length));
matchMedia("(prefers-color-scheme: dark)").onchange = plot;
$("clear").onclick = () => { slices.length = 0; seen = loading = null; $("errors").replaceChildren(); show(0); };
$("saveall").onclick = saveAll;
document.onkeydown = event => {
  if (["range", "radio"].includes(event.target.type) || event.target.tagName === "SELECT" || !slices.length || event.ctrlKey || event.metaKey) return;
  const opacity = $("opacity"), layers = [...document.querySelectorAll("[name=layer]")];
  if (event.key === "ArrowRight") show(current + 1);
  else if (event.key === "ArrowLeft") show(current - 1);
  else if (event.key === "ArrowUp") { opacity.value = +opacity.value + 5; lay(); }
  else if (event.key === "ArrowDown") { opacity.value -= 5; lay(); }
  else if (event.key.toLowerCase() === "o") { layers[(layers.findIndex(layer => layer.checked) + 1) % layers.length].checked = true; lay(); }
  else return;
  event.preventDefault();
};
