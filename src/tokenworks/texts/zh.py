"""Customer texts in Chinese."""

from typing import Final

from tokenworks.texts.catalogue import Catalogue
from tokenworks.texts.zh_staff import STAFF, STAFF_REFUSALS

# Pages.
_PAGES: Final = {
    # Every page.
    "order": "订购", "products": "套餐", "usage": "用量", "keys": "密钥", "family": "家庭", "bill": "账单",
    "other_language": "English", "sign_out": "退出登录", "skip": "跳到正文", "menu": "导航", "back": "返回", "save": "保存",
    "list_comma": "、", "notice_restricted": "账户有逾期未缴的费用，缴清后才能订购或变更套餐。",
    "suspended_payment": "因欠费已暂停服务，缴清后自动恢复。", "suspended_operator": "账户已由运营商暂停服务，请联系客服。",
    "suspended_fraud": "为了您的账户安全已暂停服务，请联系客服核实。", "suspended_lost_phone": "手机已挂失，服务已暂停；套餐仍照常续订。找回或补卡后请联系客服恢复。",
    "suspended_own_wish": "已按您的要求暂停服务，套餐不续订；可随时在本页恢复。",
    "sessions": "登录设备", "privacy": "隐私与个人信息", "terms": "服务条款", "agrees": "继续即表示您同意",
    # Signing in.
    "sign_in": "登录或注册", "sign_in_short": "登录", "identifier": "手机号或宽带账号", "identifier_hint": "例如 138 0000 0001",
    "send_code": "获取验证码", "code": "验证码", "code_hint": "已发送 6 位数字，5 分钟内有效", "go_on": "继续",
    "another_number": "换一个号码",
    # Quantities.
    "every_hours": "每 {hours} 小时", "every_days": "每 {days} 天", "in_window": "{window} {quantity}", "a_month": "每月 {quantity}",
    "for_days": "{quantity}，{days} 天内有效", "rolls_over": "未用完部分可结转一个月", "any_token": "词元", "per_month": "/月", "per_step": "/份",
    "free": "免费",
    # The shop.
    "choose": "选择套餐", "shop_lead": "以下价格均含增值税，费用计入话费账单。登录后即可订购。", "shop_lead_in": "价格均含增值税，费用计入话费账单。",
    "choose_this": "选择", "first_month": "首月 {first} 元，之后每月 {price} 元", "you_have": "已订购", "for_whom": "适合{audience}", "and": "和",
    "person": "个人", "family_audience": "家庭", "developer": "开发者", "small_business": "小微企业", "enterprise": "企业",
    "no_offerings": "目前没有可订购的套餐，请稍后再来。",
    "in_steps": "每份 {quantity}，用完自动续购，不超过您设定的每月上限", "delivered_later": "开通后开始计费",
    "bundle_of": "包含{parts}", "network": "网络侧", "local_hardware": "本地设备", "cloud_computer": "云电脑", "delivery": "交付方式",
    # Before an order.
    "confirm": "确认订购", "price": "价格", "charged_today": "今天收取", "runs_until": "本期至", "renewal": "续订",
    "renews": "{day} 自动续订，{price}", "renews_on": "{day} 自动续订，{price}", "no_renewal": "到期不续订", "renews_calendar": "每月 1 日自动续订，{price}",
    "renews_anniversary": "每月按订购日自动续订，{price}", "billed_by_step": "按份购买，用多少买多少", "after_delivery": "开通后收取 {price}", "rest_later": "{price}，其余 {rest} 开通后收取",
    "no_end": "长期有效", "on_phone_bill": "费用计入话费账单。可随时在“套餐”页取消、变更或暂停。",
    "on_phone_bill_pause": "费用计入话费账单。可随时在“套餐”页取消或暂停。", "on_phone_bill_cancel": "费用计入话费账单。可随时在“套餐”页取消。",
    "order_for": "确认订购（{price}）", "order_free": "确认订购，今天不收费", "sign_in_to_order": "登录后订购", "twice": "我已有这个套餐，仍要再订一份。",
    "cannot_order": "现在不能订购：", "other_plans": "看看其他套餐", "broadband_number": "宽带账号", "broadband_hint": "6 至 32 位字母、数字、- 或 @，见宽带合同或账单。",
    "order_first": "先订购{name}", "to_privacy": "去“隐私与个人信息”办理", "to_bill": "去缴费", "later": "指定生效日期", "start_on": "生效日期（选填）",
    "start_hint": "留空则今天生效。如选择以后的日期，将从那天开始使用和计费，在此之前可随时取消。", "begins_later": "{day} 生效，之前不收费，可随时在“套餐”页取消。",
    # After an order, keys.
    "ordered": "订购成功", "key_made": "密钥已创建", "your_key": "您的密钥", "key_once": "密钥只显示这一次，请立即保存。",
    "key_again": "订购已完成。密钥只显示一次；如需新的密钥，请再创建一个。", "new_key": "创建新密钥", "to_products": "查看我的套餐",
    "delivered_soon": "部分内容需要开通，开通后可在“套餐”页看到。",
    "set_up": "客户端设置", "works_with": "把地址和密钥填入任何兼容 OpenAI 或 Anthropic 的客户端即可。",
    "keys_title": "密钥", "keys_lead": "客户端凭密钥使用您的套餐。建议每个设备或应用使用单独的密钥，丢失时只需停用那一个。",
    "no_keys": "您还没有密钥。创建一个，填入客户端即可使用套餐。", "key_name": "名称", "key_name_hint": "例如：笔记本电脑",
    "key_cap": "词元上限（选填）", "key_cap_hint": "用完即停。例如 500000 或 50万；留空则不限。", "key_expires": "有效期",
    "never": "长期有效", "days_30": "30 天", "days_90": "90 天", "days_365": "1 年", "key_models": "允许的模型（选填）",
    "key_models_hint": "用逗号分隔；留空则允许全部模型。", "make_key": "创建密钥", "made_on": "{day} 创建", "expires_on": "有效期至 {day}",
    "capped_at": "最多 {quantity}", "only_models": "仅限 {models}", "no_limits": "不限量，不限模型", "stop_key": "停用",
    "stop_key_sure": "停用后立即失效，且无法恢复。", "stop_key_now": "确认停用", "key_live": "使用中", "key_stopped": "已停用", "key_expired": "已过期",
    "stopped_keys": "已失效的密钥", "more_keys": "另有 {count} 个密钥未显示。",
    "keys_stored": "我们不保存您的提问和回答，除非您为某个密钥开启了日志，或使用密钥的应用要求保存。", "key_logged": "日志已开启：该密钥的请求和回答会加密保存一段时间", "from_order_page": "订购页创建",
    # Products.
    "my_products": "我的套餐", "no_products": "您还没有套餐。订购后，可以在这里变更、暂停或取消。", "order_now": "去订购", "active": "使用中",
    "suspended": "已暂停", "pendingActive": "开通中", "cancelled": "已取消", "aborted": "未能开通", "expired": "已到期",
    "period": "{begin} 至 {end}", "this_period": "本期", "ends_on": "{day} 到期后结束，不再收费", "changes_on": "{day} 起变更为{name}，{price}",
    "paused_now": "暂停中：不消耗、不续订", "keep": "保留原套餐", "change": "变更", "pause": "暂停", "resume": "恢复", "cancel": "取消", "was": "以往的套餐",
    "held_now": "下一期费用超出信用额度，已暂停，未收费；缴费或调高额度后自动恢复", "to_come": "待生效",
    "begins_on": "{day} 生效，{price}；之前不收费", "withdraw": "取消预约", "done_withdraw": "预约已取消，未收取费用。",
    "pause_all": "暂停全部服务", "resume_all": "恢复全部服务", "pause_all_title": "暂停全部服务", "resume_all_title": "恢复全部服务", "pause_all_do": "暂停全部服务", "resume_all_do": "恢复全部服务",
    "all_paused": "您已暂停服务。", "all_active": "您没有暂停服务，无需恢复。",
    "pause_all_stops": "暂停后，所有密钥立即停止服务，包括家庭成员的密钥；暂停期间不能订购或变更套餐，也不会购买随用随付。",
    "pause_all_charges": "今天不收费。套餐到期后不再续订，也不再收费；本期费用已收取，不退还，到期日不变。",
    "pause_all_owed": "已经产生的费用仍会出账，请照常缴纳。", "pause_all_to_come": "暂停期间，预约的套餐到时不会生效。", "pause_all_until": "本期至 {end}，之后不再收费",
    "pause_all_back": "可随时恢复。已到期的套餐从恢复当天开始新的一期，恢复前会显示金额。",
    "resume_all_begins": "恢复后立即可以使用；已到期的套餐从今天开始新的一期。", "resume_all_others": "您的暂停将解除，但账户还因以下原因暂停：",
    "resume_all_paid": "今天（{day}）共收取 {amount}：", "resume_all_free": "今天不收费。",
    "done_pause_all": "全部服务已暂停。", "done_resume_all": "全部服务已恢复。",
    "payg_product": "按份购买，每份 {price}", "started": "{day} 开通",
    "change_title": "变更套餐", "change_lead": "当前：{name}。选择要换成的套餐：", "no_change": "没有可变更的套餐，您可以取消后另行订购。",
    "change_now": "立即变更", "change_later": "下期变更", "now_title": "立即变更", "later_title": "从下期开始",
    "change_charge": "今天收取 {amount}：新套餐本期的费用，减去旧套餐退回的部分。", "change_back": "退还 {amount}，在下期账单中抵扣。",
    "change_nothing": "今天不收费。", "change_whole": "今天收取 {amount}：新套餐本期的费用。", "change_waits": "正在进行的请求结束后，退还旧套餐未用部分，最多 {amount}。",
    "change_until": "本期至 {end}，{day} 起按 {price} 续订。", "change_from": "{day} 起按 {price} 收费；在那之前套餐不变，今天不收费。",
    "cancel_title": "取消套餐", "cancel_later_title": "到期后取消", "cancel_later": "可以用到 {end}，之后不再收费。本期费用不予退还。",
    "cancel_later_do": "到期后取消", "cancel_now_title": "立即取消", "cancel_now": "今天起停止使用，剩余用量作废，之后不再收费。",
    "gives_back": "退还 {amount}，在下期账单中抵扣。", "gives_nothing": "已收取的费用不予退还。", "gives_at_most": "正在进行的请求结束后退还未用部分，最多 {amount}，在下期账单中抵扣。", "cancel_now_do": "立即取消",
    "pause_title": "暂停套餐", "pause_text": "暂停期间不消耗用量，也不续订。本期费用已收取，不退还；本期仍在 {end} 结束。",
    "pause_text_open": "暂停期间不会购买，也不消耗用量。", "pause_after": "{end} 及之前恢复不另收费；之后恢复会开始新的一期并收费，恢复前会显示金额。", "pause_after_once": "{end} 之后不能再恢复。",
    "pause_do": "暂停", "resume_title": "恢复套餐", "resume_free": "恢复后立即可以使用，今天不收费。",
    "resume_paid": "上一期已结束。恢复后从今天开始新的一期，今天收取 {amount}。", "resume_until": "本期至 {end}。", "resume_do": "恢复使用",
    "done_change": "套餐已变更。", "done_change_later": "已安排变更，下期生效。", "done_cancel": "套餐已取消。", "done_cancel_later": "已安排取消，到期前可继续使用。",
    "done_pause": "套餐已暂停。", "done_resume": "套餐已恢复。", "done_keep": "已保留，套餐照常续订。", "done_key_stopped": "密钥已停用。",
    "done_invited": "邀请已发出，对方登录后即可接受。", "done_cap": "上限已保存。", "done_removed": "成员已移出，其密钥已停用。",
    "done_joined": "您已加入。", "done_declined": "已拒绝邀请。", "done_left": "您已退出，您在该账户中的密钥已停用。", "done_asked": "疑问已提交，答复后会通知您。", "done_spending": "已保存。",
    # Usage.
    "left": "剩余", "left_of": "共 {total}", "until": "有效期至 {day}", "no_expiry": "长期有效",
    "nothing_yet": "还没有可用的词元。", "nothing_yet_member": "账户目前没有可用的词元，请联系户主。",
    "forecast_ends": "按近 7 天用量，预计 {day} 用完。", "forecast_lasts": "按近 7 天用量，足够用到期末。", "forecast_none": "近 7 天没有用量。",
    "days": "近 30 天每日用量", "no_days": "近 30 天没有用量。", "last_requests": "最近的请求", "when": "时间", "model": "模型", "tokens": "词元", "charged": "扣减",
    "interrupted": "中断", "no_requests": "还没有请求。创建密钥并填入客户端后，请求会显示在这里。", "my_cap": "我的上限",
    # Family.
    "family_title": "家庭成员", "family_lead": "成员共用您的套餐，费用由您支付。您可以为每人设置上限，并查看各自的用量。",
    "no_members": "还没有其他成员。邀请家人后，可以在这里设置上限、查看用量。", "you": "您", "owner": "户主", "admin": "管理员", "member": "成员", "department": "部门",
    "invited": "等待接受", "used_30": "近 30 天用了 {quantity}", "used_none": "近 30 天没有用量", "no_cap": "没有上限",
    "cap_day": "每日上限 {cap}，今天已用 {used}", "cap_month": "每月上限 {cap}，本月已用 {used}", "cap_total": "总上限 {cap}，已用 {used}",
    "set_cap": "设置上限", "cap_tokens": "上限（词元）", "cap_tokens_hint": "例如 500000 或 50万；留空则不设上限。", "cap_period": "周期", "period_day": "每天",
    "period_month": "每月", "period_total": "总计", "remove": "移出", "remove_sure": "移出后不能再使用套餐，其密钥立即停用。", "remove_now": "确认移出",
    "invite": "邀请成员", "invite_phone": "对方的手机号", "invite_name": "称呼", "invite_name_hint": "例如：女儿", "invite_do": "发出邀请",
    "invitations": "收到的邀请", "invitation_from": "{name}邀请您使用其套餐", "accept": "接受", "decline": "拒绝", "memberships": "我加入的家庭",
    "membership_of": "{name}的家庭", "switch": "切换到这个家庭", "leave": "退出这个家庭", "leave_sure": "退出后不能再使用对方的套餐，您在该账户中的密钥立即停用。",
    "leave_now": "确认退出", "member_lead": "您正在使用{name}的套餐，费用由对方支付。", "more_members": "另有 {count} 位成员未显示。",
    # Bill.
    "so_far": "本期未出账", "bills": "历史账单", "amount": "金额", "what": "项目", "pdf": "下载 PDF", "due": "{day} 前缴清", "to_pay": "待缴 {amount}",
    "paid": "已结清", "total": "合计", "no_bills": "还没有账单。账单在每个账期结束后生成。", "nothing_so_far": "本期还没有费用。",
    "spending": "消费控制", "spent_of": "本月随用随付已用 {spent}，上限 {cap}", "cap": "每月上限（元）", "lock": "锁定消费", "unlock": "解除锁定",
    "locked": "消费已锁定：不会再购买随用随付。", "spill_on": "套餐用完后继续随用随付", "spill_off": "套餐用完后停止",
    "spill_is_on": "套餐用完后自动随用随付。", "spill_is_off": "套餐用完后即停止，不会产生额外费用。", "owner_sets": "上限和随用随付由户主设置。",
    "bill_no": "账单号 {number}", "question_line": "有疑问", "dispute_title": "对账单提出疑问", "dispute_text": "您的疑问",
    "dispute_hint": "请说明哪里不对，例如“我没有订购这个套餐”。最多 1000 字。", "dispute_do": "提交", "asked": "{day} 您问：", "waiting": "已收到，等待答复。",
    "answered": "{day} 答复：",
    # The frame and the parts of all pages.
    "home": "首页", "theme": "外观", "theme_system": "跟随系统", "theme_light": "浅色", "theme_dark": "深色", "close": "关闭", "details": "详情",
    "part_failed": "这部分内容未能加载，请重试。", "as_table": "以表格查看", "all": "全部", "filter": "筛选", "rows_of": "第 {first}–{last} 条，共 {total} 条",
    "rows_many": "第 {first}–{last} 条", "previous": "上一页", "next": "下一页", "csv": "下载 CSV", "nothing_found": "没有符合条件的内容。",
    # Home.
    "home_left": "剩余词元", "home_pace": "日均用量（近 7 天）", "home_unbilled": "本期未出账", "home_owed": "待缴总额", "home_owed_note": "含未出账费用",
    "home_alerts": "需要您处理", "home_balances": "套餐余量", "no_alerts": "一切正常，没有需要处理的事项。", "see_all": "查看全部",
    "low_balance": "{name}只剩 {percent}%。", "bill_unpaid": "账单 {number} 待缴 {amount}，{day} 前缴清。", "bill_overdue": "账单 {number} 已逾期，待缴 {amount}。",
    "key_ends": "密钥“{name}”将于 {day} 失效。", "no_key_alert": "您还没有密钥，创建一个即可开始使用。", "invited_alert": "您收到 {count} 个家庭邀请。", "see_usage": "查看用量",
    "see_bills": "查看账单", "see_keys": "管理密钥", "see_products": "查看套餐", "see_family": "查看邀请",
    "chart_days": "近 30 天每日用量（词元）", "chart_day": "日期",
    # Errors.
    "error_404": "没有这个页面", "error_404_more": "地址可能有误，或者页面已不存在。", "error_403": "没有权限",
    "error_403_more": "这个页面只对户主开放，或者请求来自其他网站。", "error_503": "服务暂时不可用", "error_503_more": "请稍后再试。",
    "error_other": "请求未能完成", "error_other_more": "请返回上一页，检查后重试。", "to_shop": "去看套餐",
}  # fmt: skip

# Refusals, by the name of the error's class or of its nearest base class.
_REFUSALS: Final = {
    "CodeWrong": "验证码错误或已过期，请重新获取。",
    "TooManyCodes": "验证码获取过于频繁，请稍后再试。",
    "PhoneLost": "该号码已挂失，请先联系客服解除挂失，再登录。",
    "OfferingChanged": "这个套餐刚刚有变动，请核对后再确认订购。",
    "OfferingNotActive": "该套餐目前不可订购。",
    "OfferingNotFound": "没有这个套餐。",
    "NotEligible": "您暂不符合这个套餐的订购条件。",
    "OtherAudience": "这个套餐面向其他类型的客户，您的账户不能订购。请选择其他套餐。",
    "NeedsFirst": "这一项需搭配套餐使用，请先订购相应的套餐。",
    "BroadbandMissing": "这一项需要在您的宽带上开通，请先填写宽带账号。",
    "BroadbandTaken": "这个宽带账号属于其他账户，请核对，或联系客服。",
    "DeliveredAlready": "您已经开通了这一项，只能开通一次。",
    "HadAlready": "这个套餐限次订购，您已达到次数上限。请选择其他套餐。",
    "StepsThere": "您已开通随用随付，会按需自动购买，无需重复订购。",
    "TooManyToCome": "待生效的订单已达上限，请先取消一个。",
    "SubscriberNotActive": "账户已暂停服务或有逾期欠费，请在“套餐”页查看原因。",
    "SecondNotConfirmed": "您已有这个套餐。如需再订一份，请勾选确认。",
    "CreditLimitReached": "已达信用额度，请先缴清欠费。",
    "CapBelowSpent": "上限不能低于本月已产生的费用。",
    "KeyReused": "此表单已用于另一笔订单，请重新下单。",
    "ChangeNotAllowed": "当前不能进行此变更，请返回“套餐”页查看状态。",
    "ProductEnded": "该套餐已经结束。",
    "MemberExists": "已有同名或同号码的成员。",
    "MemberNotFound": "没有这位成员，或邀请已失效。",
    "DisputeOpen": "这一项已有疑问在等待答复。",
    "ConsentNeeded": "您尚未同意或已撤回服务条款，请先在“隐私与个人信息”页面确认。",
    "ConsentTextChanged": "文本已更新，请重新阅读后确认。",
    "RealNameNeeded": "请先完成实名认证。",
    "RealNameRefused": "实名认证暂不可用，请明天再试或联系客服。",
    "NotAllowed": "您没有权限进行此操作。",
    "Invalid": "输入有误，请检查后重试。",
    "NotFound": "没有找到相关内容，请返回后重试。",
    "Conflict": "现在无法完成，请刷新后重试。",
    "Refused": "暂时无法办理。",
    "Unavailable": "服务暂时不可用，请稍后再试。",
    "TokenworksError": "操作未能完成，请稍后再试。",
}  # fmt: skip

# The page of personal data.
_PRIVACY: Final = {
    "privacy": "隐私与个人信息", "consents": "我的同意", "agree": "同意", "withdraw": "撤回同意",
    "given": "已同意", "withdrawn": "已撤回", "not_said": "尚未选择", "changed": "文本已更新，请重新确认",
    "since": "时间", "terms": "服务条款", "marketing": "营销信息", "spill_over": "套餐用完后随用随付",
    "data_cross_border": "个人信息出境", "takes_effect": "撤回后，从下一次请求起生效。", "who": "我的信息", "phone": "手机号码", "name": "姓名",
    "real_name": "实名认证", "unknown": "未认证", "pending": "核验中", "verified": "已认证", "refused": "未通过",
    "export": "导出我的信息", "export_hint": "一个 JSON 文件，包含我们保存的与您有关的全部信息。", "erase": "注销账户并删除信息",
    "erase_hint": "账户将立即注销，并销毁您的个人密钥：姓名、号码等个人信息将无法恢复。账单和记账凭证依法保留，但不再包含您的身份信息。"
    "尚有费用未结清或服务待拆除的，完成后删除。",
    "confirm": "手机号码后四位", "erased": "您的个人信息已删除。", "waiting": "账户已注销。以下事项完成后即删除个人信息：",
    "waits_owed": "结清尚未缴纳（或应退还）的费用", "waits_work_orders": "拆除已开通的宽带类服务",
    "backups": "备份中的信息最迟清除于",
    "member_hint": "您是这个账户的成员。账户的同意、账单和注销由户主办理；以下是您自己的信息。",
    "member_export_hint": "一个 JSON 文件，包含您的姓名、号码、密钥、登录记录和您自己的用量。",
    "member_erase": "退出账户并删除我的信息",
    "member_erase_hint": "您将退出这个账户，密钥立即停用，姓名、号码等个人信息将无法恢复。您的用量保留在账单中，但不再包含您的身份信息。",
    "member_erased": "您已退出账户，个人信息已删除。",
}  # fmt: skip

# The page of sessions.
_SESSIONS: Final = {
    "lead": "以下设备已登录。如有不认识的设备，请立即将其退出；您的密钥不受影响。",
    "this": "当前设备", "since": "登录时间：{at}", "seen": "最近使用：{at}", "where": "登录地址：{place}",
    "until": "{at} 自动退出", "of": "{name} 的登录", "end": "退出此设备", "end_others": "退出其他所有设备",
    "ended": "已退出。", "ended_others": "其他设备已全部退出。", "more": "另有 {count} 个登录未显示。",
    "iphone": "iPhone", "ipad": "iPad", "android": "Android 设备", "windows": "Windows 电脑", "mac": "Mac 电脑",
    "linux": "Linux 电脑", "other": "应用程序或其他设备", "unknown_place": "未知",
}  # fmt: skip

# Notices by text message, by kind.
_NOTICES: Final = {
    "spend": "本月随用随付已用 ¥{spent}，达到上限 ¥{cap} 的 {percent}%。可在“账单”页调整上限或锁定消费。",
    "dunning.remind": "账单 {bill_no} 尚有 ¥{left} 未缴，请尽快缴费。",
    "dunning.restrict": "账单 {bill_no} 逾期未缴 ¥{left}，已暂停订购与随用随付，缴清后恢复。",
    "dunning.suspend": "账单 {bill_no} 逾期未缴 ¥{left}，服务已暂停。缴费后自动恢复。",
    "dispute.answered": "您对账单 {bill_no} 第 {line_no} 项的疑问已有答复，请在“账单”页查看。",
    "plan.move": "您的“{name_zh}”将自 {date} 起按新资费续订：¥{to_price}（现为 ¥{from_price}）。如不同意，可在此之前退订或更换套餐。",
    "order.failed": "您预约 {date} 生效的“{name_zh}”未能订购，未收取费用。可在“订购”页查看原因并重新订购。",
    "credit_limit": "“{name_zh}”的下一期费用超出您的信用额度，已暂停，未收费。缴费或调高额度后自动恢复。",
    "credit_limit.released": "“{name_zh}”已自动恢复，新的一期从今天开始。",
    "dunning.close": "账单 {bill_no} 长期欠费 ¥{left}，服务已终止。",
}  # fmt: skip

# Texts of consents, by purpose. A consent is kept with the hash of its text: after a change of the text it is asked for again.
_CONSENTS: Final = {
    "terms": "我同意按所订购套餐的价格和期限使用本服务：用量按词元计量，费用计入话费账单；我可以随时取消套餐，并可随时查询、导出或删除我的个人信息。撤回同意后，本服务不再受理我的新请求和新订购；此前产生的费用仍须支付。",
    "marketing": "我同意接收关于新套餐和优惠活动的消息。不同意不影响本服务的使用；我可以随时撤回。",
    "spill_over": "我同意在套餐词元用完后继续按随用随付计费，费用不超过我设定的每月上限。我可以随时撤回；撤回后，套餐用完即停止服务。",
    "data_cross_border": "我单独同意将我的请求内容发送至境外的模型服务提供者处理，仅用于生成回答。撤回同意后，我的请求只在境内处理；没有境内部署的模型将不可用。",
}  # fmt: skip

# The PDF of a bill; `kind_…` is written behind the name of a line of that kind.
_INVOICE: Final = {
    "title": "账单",
    "number": "账单编号",
    "subscriber": "用户",
    "period": "账期",
    "to_pay": "应付金额",
    "issued": "出账日期",
    "due": "缴费截止",
    "what": "项目",
    "quantity": "数量",
    "count": "笔数",
    "tax": "其中增值税",
    "amount": "金额",
    "tax_in_all": "增值税合计",
    "total": "合计",
    "settled": "已缴及抵扣",
    "corrections": "本期账单的更正",
    "explain": "金额单位为元，含增值税；每项只舍入一次，精确到分。每一项背后的计费、词元与费率均可在用量记录中逐条查询。",
    "footer": "账单明细一经出具不再修改，更正以贷记单方式进行。",
    "kind_step": "（随用随付）",
    "kind_change": "（套餐变更）",
}  # fmt: skip

CATALOGUE: Final = Catalogue(
    pages=_PAGES,
    refusals=_REFUSALS,
    privacy=_PRIVACY,
    sessions=_SESSIONS,
    notices=_NOTICES,
    consents=_CONSENTS,
    invoice=_INVOICE,
    staff=STAFF,
    staff_refusals=STAFF_REFUSALS,
)
