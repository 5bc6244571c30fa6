"""Chinese personal names: a surname of the dictionary and given characters, where a word beside them calls a person.

A name alone reads like any other word, so three places are looked at: behind a field's label (`联系人：李明`), behind
an introduction (`我叫李明`), and before a title (`李明先生`). A surname with a title (`李先生`) tells nobody and stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# The commonest surnames, which nine of ten people in China bear (National bureau of statistics, surveys of names).
_SURNAMES = frozenset(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴"
    "夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟"
    "安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦向柳邢路岳齐梅莫庄辛管祝左涂谷祁时舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲"
    "成游阳裴席卫查屈鲍位覃霍翁隋植甘景薄单包司柏宁柯阮桂闵解强柴华车冉房边辜吉饶刁瞿戚丘古米池滕晋苑邬臧畅宫嵇蔺"
)
_COMPOUND = (
    *("欧阳", "太史", "上官", "司马", "东方", "诸葛", "尉迟"),
    *("公孙", "慕容", "司徒", "令狐", "皇甫", "夏侯", "南宫"),
)
# These are words of their own, so before a title they may belong to the sentence: 和张伟先生, 对于李娜女士.
_AMBIGUOUS = frozenset("于向时任何应安成单从位解关管")
# Characters that given names are made of; those that mostly make other words (不, 的, 号, 息) are not among them.
_GIVEN = (
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂建国华文玉红志春海燕晓东子涵雨桐欣怡宇轩梓浩然俊思佳嘉琪诗梦瑶"
    "婷雪琳慧颖丹倩薇莹琴云莲真环爱妹香月凤洁梅素美珍贞莉岚苑婕馨瑗琰韵融园艺咏卿聪澜纯毓悦昭冰爽琬茗羽希宁飘育滢馥"
    "筠柔竹霭凝霄枫芸菲寒伊亚宜可姬舒影荔枝俐峰龙飞鹏斌彬辉力永健世广义兴良山仁波贵福生元全胜学祥才发武新利清彪富顺"
    "信昌成康星光天达安岩中茂进林有坚和博诚先敬震振壮会思群豪心邦承乐绍功松善厚庆民友裕河哲江亮政谦亨奇固之轮翰朗伯"
    "宏言若鸣朋梁栋维启克伦翔旭泽晨辰士以致树炎德行时泰盛雄琛钧冠策腾楠榕航弘睿瑞锦鑫淼焱森圣凯帆阳昊皓晖晗昕曦彤"
    "妍婧媛嫣姗娇姝妮娅莎菁萍蓉蓓蕾薰蕊茜萱芷若蓝紫璇玲珊珠琦瑾璐瑜珂琼瑛璟恒恺怀恩惠忠念悠懿淑淇涓润渊溪滨潇澄濡"
    "宝宗宸富实定宛寅家容宾密军冬夏秋凌凡勤勋升卓南卫仪代任仲传伶佑佩依侠倪健傲儒元兆光兰其冉利刘加劲励勉化北千升半"
    "一二三小大正长立方青金银铁钢石根柱喜彩翠巧桃杏英连秋菊凤枝荣花芝兰香芬"
)
_LABEL = (
    "真实姓名|客户姓名|持卡人姓名|用户姓名|姓名|联系人|收件人|收货人|寄件人|预约人|申请人|持卡人|开户人|户名|经办人|负责人"
    "|乘车人|乘客|入住人|投保人|被保险人|紧急联系人|客户名称?"
)
_LABELLED = re.compile(rf"(?:{_LABEL})(?:[:=]| )?(?:是|为|叫)?[ :]{{0,2}}(?=[\u4e00-\u9fff])")
_INTRODUCED = re.compile("我叫|我是|我的名字(?:是|叫)|我名字叫?|名叫|叫做|本人(?=[\u4e00-\u9fff]{2,4}[,，])")
_TITLE = re.compile("先生|女士|小姐|太太")
_SURNAME = f"(?:{'|'.join(_COMPOUND)}|[{''.join(sorted(_SURNAMES))}])"
_GIVEN_CLASS = f"[{''.join(sorted(set(_GIVEN)))}]"
# What may follow a name in running text.
_AFTER = (
    "(?=$|[^\u4e00-\u9fff]|先生|女士|小姐|太太|电话|手机|联系|身份证|证件|住|地址|的|想|要|在|于|和|与|及|说|反映|来电|投诉|"
    "咨询|您好|你好|订单|卡号|银行|已|未|因|请|把|给|有|不|来|申请|签收)"
)
_NAME = re.compile(f"{_SURNAME}{_GIVEN_CLASS}{{1,2}}{_AFTER}")
_NO_NAME = frozenset(
    [
        "白金",
        "黄金",
        "安全",
        "高中",
        "金山",
        "金华",
        "万一",
        "方正",
        "高大",
        "成全",
        "时光",
        "向南",
        "和平",
        "马上",
        "安心",
    ]
)
_PUNCTUATION_AFTER = re.compile("$|[^\u4e00-\u9fff]|先生|女士|小姐|太太|的(?!确)|想|要")


def names(text: str) -> Iterator[tuple[int, int]]:
    """Names in the three places, without overlaps within a place; surname and given characters together."""
    if text.isascii():
        return
    found: set[tuple[int, int]] = set()
    for match in _LABELLED.finditer(text):
        found |= _at(text, match.end())
    for match in _INTRODUCED.finditer(text):
        found |= {span for span in _at(text, match.end()) if _PUNCTUATION_AFTER.match(text, span[1])}
    for match in _TITLE.finditer(text):
        found |= _before(text, match.start())
    yield from sorted(found)


def _at(text: str, start: int) -> set[tuple[int, int]]:
    name = _NAME.match(text, start)
    return {name.span()} if name and name[0] not in _NO_NAME else set()


def _before(text: str, end: int) -> set[tuple[int, int]]:
    """The name that ends where a title begins: two or three characters, or a compound surname and one or two."""
    spans = []
    for size in (4, 3, 2):
        name = text[max(0, end - size) : end]
        family = 2 if name.startswith(_COMPOUND) else 1
        given = name[family:]
        if len(name) != size or (size == 4 and family == 1) or len(given) not in (1, 2):
            continue
        if (
            (family == 2 or name[0] in _SURNAMES)
            and all(ch in _GIVEN for ch in given)
            and name not in _NO_NAME
        ):
            spans.append((end - size, end))
    if len(spans) > 1 and text[spans[0][0]] in _AMBIGUOUS:
        spans = spans[1:]
    return set(spans[:1])
