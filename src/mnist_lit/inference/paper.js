// The paper of the demo: Gradio runs this with its own `element`, `props` and `trigger`. It tells of the
// drawing, a PNG as a data URL, ten times a second while a stroke goes on and at its end.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let finger = null, told = 0;  // the pointer that draws: a palm or a second finger does not
const clear = () => pen.fillRect(0, 0, canvas.width, canvas.height);
const tell = (drawing) => {
    told = Date.now();
    props.value = drawing;
    trigger("input");
};
const drawn = () => canvas.toDataURL("image/png");
const to = (event) => {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    pen.lineTo((event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    pen.stroke();
    if (Date.now() - told > 100) tell(drawn());
};
Object.assign(pen, {lineWidth: 22, lineCap: "round", lineJoin: "round", fillStyle: "white"});
clear();
canvas.addEventListener("pointerdown", (event) => {
    if (finger !== null || event.button !== 0) return;
    finger = event.pointerId;
    canvas.setPointerCapture(finger);
    pen.beginPath();
    to(event);
    to({clientX: event.clientX + 0.1, clientY: event.clientY});  // a tap is a dot
});
canvas.addEventListener("pointermove", (event) => { if (event.pointerId === finger) to(event); });
canvas.addEventListener("lostpointercapture", (event) => {  // it is lifted, or cancelled
    if (event.pointerId === finger) { finger = null; tell(drawn()); }
});
element.querySelector("button").addEventListener("click", () => {
    finger = null;
    clear();
    tell("");
});
