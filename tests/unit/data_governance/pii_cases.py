"""The set that rules for personal data are measured on: invented numbers with right and wrong checksums, in context.

Made from what Chinese and English customers write, not from the rules; check digits are worked out here, from the
standards, and not by the code under test. Every number is drawn at random from a fixed seed: none belongs to anybody.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.text.pii import ALL_TYPES, find

WIDE = str.maketrans("0123456789@.ABCDEFGHX", "０１２３４５６７８９＠．ＡＢＣＤＥＦＧＨＸ")
TYPES = ("email", "phone", "id_card", "bank_card", "credit_code", "plate", "ip", "passport", "name")
PER_TYPE = 60


@dataclass(frozen=True, slots=True)
class Case:
    """A text, and the personal data in it as (type, the very characters), in order."""

    text: str
    spans: tuple[tuple[str, str], ...] = ()


def _split(words: str) -> list[str]:
    return words.split()


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(count))


def id_card(draw: random.Random, *, right: bool = True) -> str:
    """GB 11643-1999: area, date of birth, sequence, check character by MOD 11-2."""
    area = draw.choice(_split("110105 310115 440306 510107 330106 650102 230103 420111 610113 320505"))
    born = f"{draw.randint(1950, 2012)}{draw.randint(1, 12):02d}{draw.randint(1, 28):02d}"
    body = area + born + _digits(draw, 3)
    total = sum(int(d) * pow(2, 17 - at, 11) for at, d in enumerate(body))
    check = "10X98765432"[total % 11]
    return body + (check if right else draw.choice([c for c in "0123456789X" if c != check]))


def bank_card(draw: random.Random, *, right: bool = True) -> str:
    """A UnionPay, Visa or Mastercard number with its Luhn digit (ISO/IEC 7812-1)."""
    prefix, size = draw.choice([("622848", 19), ("621700", 19), ("622588", 16), ("4392", 16), ("5201", 16)])
    body = prefix + _digits(draw, size - 1 - len(prefix))
    total = sum(sum(divmod(int(d) * (2 - at % 2), 10)) for at, d in enumerate(reversed(body)))
    check = str(-total % 10)
    return body + (check if right else str((int(check) + draw.randint(1, 9)) % 10))


def credit_code(draw: random.Random, *, right: bool = True) -> str:
    """GB 32100-2015: department, category, area, organisation code (GB 11714) and check character by MOD 31."""
    organisation = "".join(draw.choice("0123456789ABCDEFGHJKLMNPQRTUWXY") for _ in range(4)) + _digits(
        draw, 4
    )
    values = ["0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(c) for c in organisation]
    remainder = 11 - sum(v * w for v, w in zip(values, (3, 7, 9, 10, 5, 8, 4, 2), strict=True)) % 11
    organisation += {10: "X", 11: "0"}.get(remainder, str(remainder))
    body = (
        draw.choice(["91", "92", "93", "12", "52"])
        + draw.choice(["110108", "310104", "440305"])
        + organisation
    )
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    total = sum(alphabet.index(c) * pow(3, at, 31) for at, c in enumerate(body))
    check = alphabet[-total % 31]
    return body + (check if right else draw.choice([c for c in alphabet if c != check]))


def _mobile(draw: random.Random) -> str:
    return draw.choice(_split("130 135 138 139 147 150 158 166 173 177 186 189 191 198 199")) + _digits(
        draw, 8
    )


def _phone(draw: random.Random) -> str:
    number = _mobile(draw)
    local = draw.choice("2345678") + _digits(draw, 7)
    shapes = [
        *[number] * 5,
        number.translate(WIDE),
        f"{number[:3]} {number[3:7]} {number[7:]}",
        f"{number[:3]}-{number[3:7]}-{number[7:]}",
        f"+86{number}",
        f"+86 {number}",
        f"0086{number}",
        f"010-{local}",
        f"0755-{local}",
        f"（021）{local}",
        f"021-{local}转{draw.randint(100, 899)}",
        f"+1 {draw.randint(201, 399)}-{draw.randint(201, 999)}-{_digits(draw, 4)}",
        f"({draw.randint(201, 399)}) {draw.randint(201, 999)}-{_digits(draw, 4)}",
        f"+44 20 7{_digits(draw, 3)} {_digits(draw, 4)}",
        f"+852 9{_digits(draw, 3)} {_digits(draw, 4)}",
    ]
    return draw.choice(shapes)


def _email(draw: random.Random) -> str:
    user = draw.choice(
        ["wangfang", "li.na", "chen_xd", "support-vip", "a1b2c3", "zhao.lei88", "J.Smith", "m+shop"]
    )
    user += draw.choice(["", str(draw.randint(1, 9999))])
    host = draw.choice(
        ["qq.com", "163.com", "example.com.cn", "mail.example.org", "gmail.com", "sina.cn", "x-y.co.uk"]
    )
    return draw.choice([f"{user}@{host}"] * 5 + [f"{user}＠{host}"])


def _plate(draw: random.Random) -> str:
    province = draw.choice("京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼")
    city = draw.choice("ABCDEFGH")
    tail = draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") + _digits(draw, 4)
    shapes = [
        *[f"{province}{city}{tail}"] * 4,
        f"{province}{city}·{tail}",
        f"{province}{city} {tail}",
        f"{province}{city}-{_digits(draw, 5)}",
        f"{province}{city}{_digits(draw, 3)}{draw.choice('KLMNP')}{draw.choice('0123456789')}",
        f"{province}{city}D{_digits(draw, 5)}",
        f"{province}{city}F{draw.choice('ABCDEFGH')}{_digits(draw, 4)}",
        f"{province}{city}{_digits(draw, 5)}D",
        f"{province}{city}{_digits(draw, 4)}学",
        f"{province}{city}{_digits(draw, 4)}挂",
    ]
    return draw.choice(shapes)


def _ip(draw: random.Random) -> str:
    four = ".".join(str(draw.randint(1, 254)) for _ in range(4))
    groups = [f"{draw.randint(1, 0xFFFF):x}" for _ in range(8)]
    return draw.choice(
        [four] * 5
        + [
            "2001:db8:" + ":".join(groups[:6]),
            "fe80::" + ":".join(groups[:4]),
            f"2408:{groups[0]}::{groups[1]}",
        ]
        + [f"::ffff:{four}", f"2409:8a{draw.randint(10, 99)}::1"]
    )


def _passport(draw: random.Random) -> str:
    eight = _digits(draw, 8)
    return draw.choice([f"E{eight}", f"E{draw.choice('ABCDEFGH')}{eight[:7]}", f"G{eight}", f"PE{eight[:7]}"])


_SURNAMES = _split("王 李 张 刘 陈 杨 赵 黄 周 吴 徐 孙 胡 朱 高 林 何 郭 马 罗 欧阳 司马 上官 诸葛")
_GIVEN = _split(
    "伟 芳 娜 秀英 敏 静 丽 强 磊 军 洋 勇 艳 杰 娟 涛 明 超 秀兰 霞 平 刚 桂英 晓东 建国 子涵 雨桐 欣怡"
)


def _name(draw: random.Random) -> str:
    return draw.choice(_SURNAMES) + draw.choice(_GIVEN)


_FRAMES: dict[str, list[str]] = {
    "phone": [
        "联系电话{}谢谢",
        "我的手机号是{}麻烦尽快回电",
        "请打{}找我，不要打办公室",
        "{}",
        "收件电话：{}，放门口就行",
        "微信同号{}加我",
        "客户来电{}反映宽带故障",
        "Please call me at {} after 6 pm.",
        "我把号码换成{}了以前那个停用了",
        "【{}】尾号不对",
        "Tel: {}",
        "user: 你好\n{}\n这是我的号码",
    ],
    "email": [
        "邮箱{}谢谢",
        "发票请发到{}，抬头个人",
        "Please write to {}.",
        "我的邮箱是{}麻烦重发验证邮件",
        "联系{}或客服",
        "<{}>",
        "抄送：{};其他人不用",
        "Reply-To: {}\nSubject: refund",
    ],
    "id_card": [
        "身份证号{}已实名",
        "证件号码：{}。",
        "我身份证{}帮我查下",
        "实名信息{}提示不一致",
        "ID number {} please check",
        "{}",
        "身份证（{}）过期了",
    ],
    "bank_card": [
        "卡号{}扣款失败",
        "退款到{}就可以",
        "银行卡：{}，开户行朝阳支行",
        "My card {} was charged twice",
        "请绑定{}这张卡",
        "尾号不记得了，整张是{}。",
    ],
    "credit_code": [
        "税号{}抬头某某公司",
        "统一社会信用代码：{}",
        "开票资料{}，地址上海",
        "纳税人识别号{}请核对",
        "Tax ID {} on the invoice",
        "公司代码是{}对吗",
    ],
    "plate": [
        "车牌号{}停在二号门",
        "我的车是{}被拖走了",
        "{}的违章怎么处理",
        "麻烦给{}开下闸机",
        "车牌：{}，白色",
        "刚才{}追尾了我",
        "parked car {} at gate 2",
    ],
    "ip": [
        "服务器{}连不上",
        "登录IP：{}，不是我本人",
        "from {} port 22",
        "异地登录{}请核实",
        "ping {} 超时",
        "ip={}&os=ios",
        "地址是{}。",
    ],
    "passport": [
        "护照号{}已过期",
        "护照号码：{}",
        "我的护照是{}可以购票吗",
        "Passport No. {}",
        "passport number {} issued 2020",
        "证件类型护照，号码{}",
        "{}是我的护照号",
    ],
    "name": [
        "联系人：{}，下午在家",
        "姓名{}，订单还没到",
        "收件人{}，朝阳区幸福路",
        "我叫{}，想问下退款",
        "请帮我转接{}先生",
        "{}女士您好，您的快递已到",
        "客户姓名：{}\n诉求：换货",
        "持卡人姓名为{}。",
        "我是{}先生的家属",
        "预约人：{}",
        "麻烦联系{}女士处理",
        "负责人{}电话打不通",
        "乘客{}已退票",
        "本人{}，申请退款",
        "收件人:{} 上海市",
        "和{}先生约好了",
    ],
}


def _written(kind: str, draw: random.Random) -> str:
    if kind == "id_card":
        card = id_card(draw)
        return draw.choice(
            [card] * 4 + [card.lower(), card.translate(WIDE), f"{card[:6]} {card[6:14]} {card[14:]}"]
        )
    if kind == "bank_card":
        card = bank_card(draw)
        spaced = " ".join(card[at : at + 4] for at in range(0, len(card), 4))
        return draw.choice([card] * 4 + [spaced, spaced.replace(" ", "-"), card.translate(WIDE)])
    if kind == "credit_code":
        code = credit_code(draw)
        return draw.choice([code] * 4 + [code.lower(), code.translate(WIDE)])
    makers = {
        "phone": _phone,
        "email": _email,
        "plate": _plate,
        "ip": _ip,
        "passport": _passport,
        "name": _name,
    }
    return makers[kind](draw)


def positives() -> list[Case]:
    """`PER_TYPE` of each type, every frame in turn; then texts with several types beside each other."""
    draw = random.Random(20260105)
    cases = []
    for kind in TYPES:
        frames = _FRAMES[kind]
        for number in range(PER_TYPE):
            value = _written(kind, draw)
            cases.append(Case(frames[number % len(frames)].format(value), ((kind, value),)))
    return cases + _together(draw)


def _together(draw: random.Random) -> list[Case]:
    cases = []
    for _ in range(20):
        name, phone, card, plate = _name(draw), _mobile(draw), id_card(draw), _plate(draw)
        email, address = _email(draw), ".".join(str(draw.randint(1, 254)) for _ in range(4))
        cases += [
            Case(
                f"姓名：{name}电话{phone}身份证{card}", (("name", name), ("phone", phone), ("id_card", card))
            ),
            Case(f"{phone}/{email}/{plate}", (("phone", phone), ("email", email), ("plate", plate))),
            Case(f"{card}，{phone}。IP{address}", (("id_card", card), ("phone", phone), ("ip", address))),
        ]
    return cases


_PLAIN = """
今天下午三点开会，记得带笔记本
您好，请问有什么可以帮您？
满200减30，限时48小时
订单金额1,299.00元，优惠券抵扣100元
尾号8899的卡
验证码是482913，5分钟内有效
价格12.5元/斤，买3送1
客服热线400-820-8820
拨打95588咨询
请拨打12345市民热线
客服电话10086，人工按0
全国统一热线 800-810-8888
110、119和120都是紧急电话
2026年3月5日 14:30:25
2026-03-05 14:30:25.123456
20260305143025
会议号 123 456 789
版本号v10.0.22631.4890
升级到1.2.3.4版本后闪退
Windows 10.0.19045.3803 更新失败
Chrome/120.0.6099.130
firmware version 3.12.0.7 is out
子网掩码怎么填
IPv6是什么意思
时间是12:30:45到13:00:00
比例1:2:3
章节1.2.3.4.5
300.168.1.1不是合法地址
256.256.256.256
C++::std::string
std::vector::push_back
京东的快递到了吗
京A号楼在哪里
沪B级旅行社
川菜馆A12345桌怎么走
京A1234
鲁A123456789
粤语A班
浙江大学A12楼
新A股行情怎么样
产品型号A12345
青B1说明书
姓名不能为空
请填写姓名和电话
联系人是谁
联系人电话是多少
收件人信息有误
收件人地址写错了
我叫了一辆车
我叫外卖了
先生您好
那位女士已经离开了
小姐姐好漂亮
对于女士来说尺码偏小
高先生产线的效率
这位先生请稍等
老师好
王者荣耀充值没到账
张开嘴
马上处理
李子多少钱一斤
黄色的那件
周末可以发货吗
白色先发
高级会员怎么开通
男士和女士款式不同
女士优先
何时发货
任何先生产的批次都可以
姓名：
姓名：必填
联系人：客服
用户名是什么
我是学生
我是老客户
护照怎么办理
护照过期了怎么办
护照照片要求白底
passport photo size 35x45
航班CA1234567延误
E12345678是什么错误码
错误代码G12345678
物料编号EA1234567
车次G1234
SKU E87654321
user@localhost
@小王 看下
价格@50元
git@github
a @ b . com
foo@bar..com
2001年的12::30
Mac地址00:1A:2B:3C:4D:5E
哈希值 d41d8cd98f00b204e9800998ecf8427e
550e8400-e29b-41d4-a716-446655440000
ISBN 978-7-302-51234-9
圆周率3.14159265358979323846
经度116.397128纬度39.916527
坐标(116.404, 39.915)
面积128.88平方米
第13800138期
房号1380-138
QQ群123456789
快递柜取件码8-2-1043
https://example.com/a/1?id=1234567890
公式a=b*c/d
3-5个工作日
周一至周五9:00-18:00
人均100-150元
身高175体重60
血压120/80
比分3:2
分辨率1920x1080
Error 0x80070005
order #A-2026-000123
invoice INV2026030512
The meeting is at 10:30 on 2026-03-05
It costs $1,234,567.89 in total
version 2.10.13 build 20260305
Call 911 in an emergency
Our hotline is 1-800-555-0199
See section 4.2.1.3 of the manual
Mr. and Mrs.
part number 4400-1234-77
收藏A12345这款
更新A10023补丁后黑屏
北京A12345座怎么走
阿里云A10086实例
子网掩码255.255.255.0
户名金华市某某有限公司
收件人方便的时候再送
联系人安全第一
我是白金会员
我是高级工程师
本人金额有误
我叫马上发货你们没发
""".strip().splitlines()


def negatives() -> list[Case]:
    """Texts without personal data: what is written by hand, then wrong checksums and longer numbers, by the dozen."""
    draw = random.Random(20260106)
    cases = [Case(text) for text in _PLAIN]
    for _ in range(20):
        mobile = _mobile(draw)
        cases += [
            Case(f"身份证号{id_card(draw, right=False)}校验不通过"),
            Case(f"卡号{bank_card(draw, right=False)}无效"),
            Case(f"税号{credit_code(draw, right=False)}填错了"),
            Case(f"订单号{draw.randint(2, 9)}{mobile}还没发货"),
            Case(f"运单{mobile}{_digits(draw, 2)}查不到"),
            Case(f"流水号20260305{mobile}"),
            Case(f"SN{mobile}A序列号"),
            Case(f"金额{mobile}.55元"),
            Case(f"订单20260{_digits(draw, 11)}"),
            Case(f"订单号{draw.randint(1, 9)}{_digits(draw, draw.randint(14, 18))}未到账"),
            Case(f"运单号：{draw.choice(['62', '60', '43', '77'])}{_digits(draw, 14)}"),
        ]
    return cases


@dataclass(frozen=True, slots=True)
class Score:
    """Spans of one type over the whole set: found rightly, found wrongly, and not found."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.right / max(self.right + self.wrong, 1)

    @property
    def recall(self) -> float:
        return self.right / max(self.right + self.missed, 1)


def scores(cases: Sequence[Case]) -> dict[str, Score]:
    """The score of each type, all types being looked for in every text; a span counts when both its ends are right."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for case in cases:
        found = Counter((item.type, case.text[item.start : item.end]) for item in find(case.text, ALL_TYPES))
        wanted = Counter(case.spans)
        right.update(kind for kind, _ in (found & wanted).elements())
        wrong.update(kind for kind, _ in (found - wanted).elements())
        missed.update(kind for kind, _ in (wanted - found).elements())
    return {kind: Score(right[kind], wrong[kind], missed[kind]) for kind in TYPES}
