// Runs lines of Python under the WebAssembly build of MicroPython (32 bits):
//     node wasm.mjs PACKAGE FOLDER HEAP_BYTES "line" ...
// FOLDER is copied into its memory as /stage, which is all that it can import. Exit status 1 on a Python exception.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [build, folder, heap, ...lines] = process.argv.slice(2);
const { loadMicroPython } = await import(pathToFileURL(path.join(build, "micropython.mjs")).href);
const python = await loadMicroPython({
    heapsize: parseInt(heap),
    stdout: (line) => process.stdout.write(line + "\n"),
    linebuffer: true,
});

function copy(from, to) {
    python.FS.mkdir(to);
    for (const entry of fs.readdirSync(from, { withFileTypes: true })) {
        const source = path.join(from, entry.name);
        if (entry.isDirectory()) copy(source, to + "/" + entry.name);
        else python.FS.writeFile(to + "/" + entry.name, fs.readFileSync(source));
    }
}
copy(folder, "/stage");
try {
    // Its frozen modules (datetime, functions, logging ...) are not on any board: out of the path with them.
    python.runPython("import sys\nsys.path[:] = ['/stage']");
    // One by one: it can collect garbage only when no Python is running.
    for (const line of lines) python.runPython(line);
} catch (error) {
    process.stdout.write(String(error) + "\n");
    process.exit(1);
}
