// What the page uses of others' libraries.
import { NVImage, Niivue } from "@niivue/niivue";
import { gunzipSync, unzipSync, zipSync } from "fflate";

window.viewer = { NVImage, Niivue, gunzipSync, unzipSync, zipSync };
