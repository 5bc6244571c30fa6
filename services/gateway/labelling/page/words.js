// What the page says, in the language of the browser, and how it makes elements. All of an item's text goes through
// `make` or `textContent`, never through HTML.
const ZH = (navigator.languages?.[0] ?? navigator.language ?? "en").toLowerCase().startsWith("zh");
const WORDS = ZH ? {
  title: "标注", signIn: "登录", token: "标注令牌", ask: "请输入项目负责人给您的标注令牌（hll_ 开头）。",
  wrong: "令牌无效，或不属于此项目。", offline: "暂时连不上服务器，稍后自动重试。", leave: "退出",
  label: "标注", adjudication: "仲裁", submit: "提交", skip: "跳过", undo: "撤销", guidelines: "标注说明",
  done: "全部完成", doneMore: "现在没有您可以标注的条目了。", doneJudge: "现在没有等待仲裁的条目。",
  a: "回答 A", b: "回答 B", tie: "不分上下", answer: "请写下回答", own: "自己标注", proposals: "标注者的意见",
  opinion: "意见", correcting: "正在修改您之前的标注", sending: "待发送", choose: "请先选择标签",
  write: "请先写下内容", none: "（无）", taken: "此条目已由他人完成。", today: "已完成", auto: "选中即提交", refused: "未被接受：",
  keysSelect: "选择", keysMark: "标记选中文字", keysMove: "移动／选择文字", keysUnmark: "删除标记", keysSend: "提交",
} : {
  title: "Labelling", signIn: "Sign in", token: "Labelling token",
  ask: "Enter the labelling token that the project's owner gave you (it starts with hll_).",
  wrong: "This token is not valid, or not one of this project.", offline: "The server does not answer; trying again.",
  leave: "Sign out", label: "Label", adjudication: "Adjudicate", submit: "Submit", skip: "Skip", undo: "Undo",
  guidelines: "Guidelines", done: "All done", doneMore: "There is nothing left for you to label just now.",
  doneJudge: "Nothing waits for a decision just now.", a: "Answer A", b: "Answer B", tie: "Tie",
  answer: "Write the answer", own: "Give your own", proposals: "What the labellers said", opinion: "Opinion",
  correcting: "You are changing a label that you gave before", sending: "to be sent", choose: "Choose a label first",
  write: "Write something first", none: "(none)", taken: "Others have finished this item.", today: "done",
  auto: "Submit on choosing", refused: "Not accepted: ",
  keysSelect: "choose", keysMark: "mark the selection", keysMove: "move / select text", keysUnmark: "unmark",
  keysSend: "submit",
};
document.documentElement.lang = ZH ? "zh-CN" : "en";

const find = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, heard] of Object.entries(value)) element.addEventListener(event, heard);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "aria") for (const [key, text] of Object.entries(value)) element.setAttribute(`aria-${key}`, text);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

let toastTimer = 0;
function toast(text) {
  const place = find("toast");
  place.textContent = text;
  place.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { place.hidden = true; }, 4000);
}
