"""Checks of a page that run inside it: contrast of texts, names of controls, the mark of focus."""

CONTRASTS = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const channels = (colour) => {  // any colour that CSS knows, as red, green, blue, alpha
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, ground) =>
        [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3])).concat(1);
    const ground = (element) => {
        if (!element) return channels(getComputedStyle(document.documentElement).colorScheme
            .startsWith("dark") ? "black" : "white");
        const own = channels(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own : over(own, ground(element.parentElement));
    };
    const luminance = (colour) => {
        const linear = colour.slice(0, 3).map((value) => {
            const share = Math.round(value) / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        const hides = element.closest("script, style, noscript, title, option, :disabled");
        if (!text || hides || !element.checkVisibility({ visibilityProperty: true })) continue;
        const style = getComputedStyle(element);
        const behind = ground(element);
        const colour = element.closest("svg") ? style.fill : style.color;
        const inFront = over(channels(colour), behind);
        const [dark, light] = [luminance(inFront), luminance(behind)].sort((a, b) => a - b);
        const ratio = Math.round(((light + 0.05) / (dark + 0.05)) * 100) / 100;
        found.push({ text: text.slice(0, 60), ratio });
    }
    return found;
}"""
"""Returns the contrast of each visible text with its ground (WCAG 2.2, 1.4.3)."""

UNLABELLED = """() => {
    const named = (element) => [
        element.getAttribute("aria-label"), element.textContent, element.title,
        ...[...(element.labels || [])].map((label) => label.textContent),
    ].some((words) => words && words.trim());
    const bare = (element) => element.cloneNode(false).outerHTML;
    const pictures = [...document.images].filter((image) => !(image.alt || "").trim());
    const controls = [...document.querySelectorAll("button, select, input, textarea, a[href]")];
    return [...pictures, ...controls.filter((control) => !named(control))].map(bare);
}"""
"""Returns the pictures without a text and the controls without a name."""

FOCUS = """() => {
    const element = document.activeElement;
    const style = getComputedStyle(element);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
    const box = element.getBoundingClientRect();
    const path = [...document.querySelectorAll("*")].indexOf(element);
    return {
        html: `${path} ${element.cloneNode(false).outerHTML.slice(0, 200)}`,
        marked: element === document.body || (outlined && box.width > 0 && box.height > 0),
    };
}"""
"""Returns whether the element that has the keys is marked; the page's end is no element."""
